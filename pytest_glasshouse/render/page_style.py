"""The page's style sheet, for light and dark, for phone and paper. Nothing is fetched."""

from __future__ import annotations

#: Each colour in light and in dark. Text on ground reaches a contrast of 4.5, lines and marks 3.
_COLOURS = {
    "ground": ("#ffffff", "#14171a"),
    "card": ("#f6f7f9", "#1d2125"),
    "text": ("#1b1f24", "#e8eaed"),
    "soft": ("#57606a", "#a3abb4"),
    "edge": ("#c4cad1", "#434a52"),
    "protected": ("#0a5ea8", "#6cb6ff"),
    "raw": ("#a04100", "#ffa657"),
    "null": ("#8a8f98", "#6d747c"),
    "good": ("#176639", "#56d083"),
    "bad": ("#b3261e", "#ff8a80"),
    "warn": ("#7a5200", "#e6b450"),
}
_RAMP = ("#8c959f", "#3d78b5", "#7b4fb5", "#1b7f79", "#5a8f29", "#c08a00", "#b5562a", "#b3261e", "#6a737d", "#9a6ea8", "#2c8c9c")


def style_sheet() -> str:
    """The text of the page's `style` element."""
    light, dark = ("".join(f"--{name}:{pair[place]};" for name, pair in _COLOURS.items()) for place in (0, 1))
    ramp = "".join(
        f".p{number}{{fill:{colour}}}.key.p{number}::before{{background:{colour}}}" for number, colour in enumerate(_RAMP)
    )
    return (
        f":root{{color-scheme:light dark;{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        + _RULES.replace("\n", "")
        + ramp
    )


_RULES = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1rem;background:var(--ground);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0}h2{font-size:1.25rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--edge)}
h3{font-size:1.05rem;margin:0 0 .3rem}h4{font-size:.95rem;margin:1rem 0 .3rem}
p,ul{margin:.4rem 0}ul{padding-left:1.2rem}
a{color:var(--protected)}a:focus-visible,summary:focus-visible,
.wide:focus-visible{outline:3px solid var(--protected);outline-offset:2px}
.skip{position:absolute;left:-99rem}.skip:focus{position:static}
details.bad>.in{color:var(--text)}.soft{color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.banner{border:2px solid var(--warn);border-radius:.4rem;padding:.6rem .8rem;margin:.8rem 0;font-weight:600}
.banner.bad{border-color:var(--bad)}
.tile{border:2px solid;border-left-width:.6rem;border-radius:.4rem;padding:.6rem .8rem;margin:.6rem 0}
.tile .head{font-size:1.2rem;font-weight:700;line-height:1.3;margin:0}
.tile ul,.tile details,.tile summary{color:var(--text);font-weight:400}
.card.failed{border:2px solid var(--bad)}
th button{all:unset;cursor:pointer;color:inherit;text-decoration:underline dotted}
th button:focus-visible{outline:3px solid var(--protected)}
th[aria-sort=ascending] button::after{content:" \\2191"}th[aria-sort=descending] button::after{content:" \\2193"}
g[hidden]{display:none}
section.card{margin:.8rem 0}select{font:inherit;color:inherit;background:var(--card);border:1px solid var(--soft);max-width:100%}
input{font:inherit;color:inherit;background:var(--card);border:1px solid var(--soft);
border-radius:.3rem;padding:.2rem .5rem;width:min(100%,18rem)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr));gap:.8rem}
.card{background:var(--card);border:1px solid var(--edge);border-radius:.4rem;padding:.7rem .8rem}
.figure{font-size:1.05rem;font-weight:650;margin:0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .8rem;margin:.4rem 0}dt{color:var(--soft)}dd{margin:0}
details{margin:.5rem 0}summary{cursor:pointer;font-weight:600;padding:.2rem 0}
details>details,details>.in{margin-left:.4rem}
.wide{overflow-x:auto;margin:.4rem 0}
table{border-collapse:collapse;width:100%;font-size:.875rem}caption{text-align:left;color:var(--soft);padding:.2rem 0}
th,td{text-align:left;vertical-align:top;padding:.25rem .6rem .25rem 0;
border-bottom:1px solid var(--edge);overflow-wrap:break-word}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code{font:.8125rem/1.4 ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
.plot{display:block;width:100%;height:auto;overflow:visible}.plot text{fill:var(--soft);font-size:11px;font-family:inherit}
.plot .axis{stroke:var(--soft);stroke-width:1}.plot .grid{stroke:var(--edge);stroke-width:.6}
.plot .zero{stroke:var(--text);stroke-width:1;stroke-dasharray:3 3}
.plot .margin{fill:var(--edge);opacity:.35}.plot .null{fill:var(--null);opacity:.6}
.plot .interval{stroke:var(--protected);stroke-width:2;fill:none}.plot .point{fill:var(--protected)}
.plot .alone{fill:var(--card);stroke:var(--protected);stroke-width:2}
.plot .protected{stroke:var(--protected);fill:var(--protected);stroke-width:2}
.plot .raw{stroke:var(--raw);fill:var(--raw);stroke-width:2}
.plot .raw2{stroke:var(--null);fill:var(--null);stroke-width:2}
.plot .turn{stroke:var(--ground);stroke-width:.6}.plot .round{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 3}
.plot .band{fill:var(--protected);opacity:.18}.plot .failed{stroke:var(--bad);stroke-width:2.5;fill:none}
.plot a text{fill:var(--protected)}
.plot .average{stroke-dasharray:5 3}.plot circle.average,.plot rect.average{fill:none}
.key::before{content:"";display:inline-block;width:.8em;height:.8em;margin-right:.35em;vertical-align:-.05em;background:currentColor}
.key{margin-right:.9em}.key.protected{color:var(--protected)}.key.protected::before{border-radius:50%}.key.raw2{color:var(--soft)}.key.raw2::before{background:var(--null)}.key.raw{color:var(--raw)}
@media(max-width:30rem){body{padding:.7rem}dl{grid-template-columns:1fr}dt{margin-top:.3rem}
.plot text{font-size:14px}.plot.big text{font-size:18px}}
@page{margin:12mm}
@media print{:root{font-size:8pt}body{max-width:none;padding:0;font-size:8pt;line-height:1.25}
.card,.tile,tr,svg{break-inside:avoid}
h2{margin:.8rem 0 .3rem;font-size:11pt;break-after:avoid}h4{margin:.3rem 0 0;break-after:avoid}p,ul{margin:.15rem 0}
details{margin:.2rem 0}table{font-size:7.5pt}th,td{padding:.08rem .4rem .08rem 0}
.cards{grid-template-columns:repeat(3,1fr);gap:.4rem}.card{padding:.3rem .4rem}.figure{font-size:9pt}
dl{grid-template-columns:max-content 1fr max-content 1fr;gap:0 .6rem;margin:.15rem 0}
.plots{display:grid;grid-template-columns:1fr 1fr;gap:.6rem;break-inside:avoid}.key{font-size:7.5pt;margin-right:.5em}
details::details-content{content-visibility:visible!important;height:auto!important;display:block}
details details:not(.bad),.skip,.screen{display:none}.wide{overflow:visible}}
"""
