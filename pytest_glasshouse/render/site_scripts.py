"""The scripts of the site's pages: filters of the index, and the comparison of two runs. They send nothing and fetch nothing."""

from __future__ import annotations

#: Hides what has not every tag that was chosen, and closes the gaps that this leaves in the forest plot.
FILTERS = """
for(const s of document.querySelectorAll('select[data-of]'))s.addEventListener('change',()=>{
const all=[...document.querySelectorAll('select[data-of]')].filter(x=>x.value);
for(const r of document.querySelectorAll('[data-tags]')){
const tags=r.dataset.tags.split('|');
r.toggleAttribute('hidden',!all.every(x=>tags.includes(x.dataset.of+'='+x.value)))}
let place=0;
for(const g of document.querySelectorAll('g[data-row]:not([hidden])'))
g.setAttribute('transform','translate(0 '+g.dataset.row*place+++')')});
"""
#: Welch's t as `overhead.difference` has it, from each row's mean log ratio, its variance and degrees of freedom. The quantiles
#: of whole degrees of freedom are in the page's data; between two of them it is interpolated.
COMPARE = """
const data=JSON.parse(document.getElementById('data').textContent);
const first=document.getElementById('a'),second=document.getElementById('b');
const body=document.querySelector('#compared tbody'),none=document.getElementById('none');
const quantile=freedom=>{const t=data.t,whole=Math.min(Math.floor(freedom),t.length-1),part=freedom-whole;
return whole+1>t.length-1?t[t.length-1]:t[whole-1]*(1-part)+t[whole]*part};
const signed=value=>(value>=0?'+':'-')+Math.abs(value).toFixed(2);
const overhead=row=>-100*Math.expm1(row[1]);
const variance=row=>(100-overhead(row))**2*row[2];
const interval=(x,y)=>{if(x[2]===null||y[2]===null)return 'single sample';
const u=variance(x),v=variance(y),middle=overhead(y)-overhead(x);
const reach=u+v?quantile((u+v)**2/(u*u/x[3]+v*v/y[3]))*Math.sqrt(u+v):0;
return signed(middle-reach)+' to '+signed(middle+reach)};
const show=()=>{body.replaceChildren();
for(const x of data.runs[first.value][1])for(const y of data.runs[second.value][1]){
if(x[0]!==y[0])continue;
const line=document.createElement('tr');
const cells=[data.names[x[0]],signed(overhead(x)),signed(overhead(y)),signed(overhead(y)-overhead(x)),interval(x,y)];
for(const text of cells){const cell=document.createElement('td');cell.textContent=text;line.append(cell)}
body.append(line)}
none.hidden=body.rows.length>0};
for(const chosen of [first,second]){data.runs.forEach((run,place)=>{
const option=document.createElement('option');option.value=place;option.textContent=run[0];chosen.append(option)});
chosen.addEventListener('change',show)}
first.value=Math.max(data.runs.length-2,0);second.value=data.runs.length-1;show();
"""
