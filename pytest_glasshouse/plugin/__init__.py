"""Everything pytest sees: hooks, options, fixtures, markers, terminal, xdist. The only room that imports pytest."""
