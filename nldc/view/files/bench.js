const wide = matchMedia("(min-width: 861px)");
for (const each of document.querySelectorAll("section.plotted details")) each.open = wide.matches;
