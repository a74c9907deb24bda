"""What the page of suspected labels adds to the style sheet of all pages."""

__all__ = ["SUSPECTS_STYLE"]

# .now: the card that keys act on. What was decided is told by words, not by colour alone; orange and blue are those of shares.
#: The style sheet, for behind that of all pages.
SUSPECTS_STYLE = """
.ctwe :is(h1,.suspect,.doubles){overflow-wrap:anywhere}
.ctwe .lead{font-size:1.05rem;max-width:62rem}
.ctwe .warning{border:2px solid var(--opp-ink);border-radius:8px;padding:.5rem .9rem;max-width:62rem;margin:.7rem 0}
.ctwe .warning b{color:var(--opp-ink)}
.ctwe h2.part{font-size:1.15rem;color:var(--fg);margin:2rem 0 .4rem}
.ctwe kbd{font:600 .78em/1 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;border:1px solid var(--soft);
border-radius:4px;padding:.1em .38em;background:var(--card);color:var(--fg)}
.ctwe .desk{position:sticky;top:0;z-index:2;background:var(--bg);border-bottom:1px solid var(--line);
padding:.5rem 0;margin:.4rem 0 .6rem}
.ctwe .desk .row{align-items:center;gap:.35rem .6rem}
.ctwe .desk p{margin:0;font-size:.88rem}.ctwe .desk .said-last{color:var(--soft)}
.ctwe .desk progress{flex:1 1 6rem;height:.6rem;accent-color:rgb(var(--pro))}
.ctwe [hidden]{display:none!important}
.ctwe :is(button,select){font:inherit;font-size:.88rem;line-height:1.4;color:var(--fg);background:var(--quiet);
border:1px solid var(--soft);border-radius:6px;padding:.25rem .65rem;max-width:100%;overflow-wrap:anywhere;cursor:pointer}
.ctwe button:hover{border-color:var(--fg)}
.ctwe button[aria-pressed=true]{border-color:var(--pro-ink);box-shadow:inset 0 0 0 1px var(--pro-ink);font-weight:650}
.ctwe :is(button,select,summary,.suspect):focus-visible{outline:3px solid var(--pro-ink);outline-offset:2px}
.ctwe .suspect{padding:.9rem 1.1rem 1rem;margin:0 0 1.1rem;scroll-margin-top:7rem;border-left:5px solid var(--line)}
.ctwe .suspect.now{border-left-color:var(--pro-ink);box-shadow:0 0 0 2px var(--pro-ink)}
.ctwe .suspect:focus{outline:none}.ctwe .suspect:focus-visible{outline:2px solid var(--pro-ink);outline-offset:2px}
.ctwe .suspect .row{gap:.2rem .7rem}
.ctwe .suspect h3{margin:0;font-size:1.2rem;font-weight:400;line-height:1.4;overflow-wrap:anywhere}
.ctwe .suspect h3 b{font-weight:650;border:1.5px solid var(--soft);border-radius:6px;padding:0 .4em;
-webkit-box-decoration-break:clone;box-decoration-break:clone}
.ctwe .suspect h3 .new{background:var(--fg);color:var(--bg);border-color:var(--fg)}
.ctwe .suspect h3 .arrow{color:var(--soft);padding:0 .1em}.ctwe .suspect h3 small{white-space:nowrap}
.ctwe .chance{margin-left:auto;white-space:nowrap;font-weight:650;font-variant-numeric:tabular-nums}
.ctwe .where{font-size:.8rem;color:var(--soft)}
.ctwe .suspect>.text,.ctwe .suspect>.long .text{font-size:1.1rem;margin:.5rem 0 .6rem}
.ctwe .choices{display:flex;flex-wrap:wrap;gap:.4rem .5rem;align-items:center;margin:.4rem 0 .2rem}
.ctwe .choices label{font-size:.88rem;display:inline-flex;gap:.4rem;align-items:center;max-width:100%}
.ctwe .choices select{max-width:14rem}
.ctwe .verdict{font-size:.85rem;font-weight:650;border:1.5px solid var(--pro-ink);color:var(--pro-ink);border-radius:99px;
padding:0 .7rem;overflow-wrap:anywhere}
.ctwe .decided{background:var(--quiet)}
.ctwe .dropped>.text,.ctwe .dropped>.long .text{text-decoration:line-through}
.ctwe .why h4{font-size:.9rem;color:var(--fg);font-weight:650;margin:.6rem 0 .15rem}
.ctwe .why h4 .p{color:var(--pro-ink)}.ctwe .why h4 .o{color:var(--opp-ink)}
.ctwe .why .by{font-size:.88rem;margin:0 0 .3rem;overflow-wrap:anywhere}.ctwe .why .by small{color:var(--soft);font-size:1em}
.ctwe .why .by bdi{font-weight:600}
.ctwe .why ul,.ctwe .doubles{list-style:none;margin:0;padding:0}
.ctwe .why li{border-left:3px solid var(--line);padding:.05rem 0 .05rem .65rem;margin:.35rem 0;font-size:.9rem}
.ctwe .why li .text{margin:.1rem 0;line-height:1.6}
.ctwe table.pairs{table-layout:auto;max-width:46rem;font-size:.9rem}
.ctwe table.pairs :is(th,td){width:auto;padding:.2rem 1.2rem .2rem 0;overflow-wrap:anywhere}
.ctwe table.pairs thead th{color:var(--soft);border-bottom:1px solid var(--line)}
.ctwe .doubles li{border-top:1px solid var(--line);padding:.5rem 0}
.ctwe .doubles .text{margin:.1rem 0 .3rem;font-size:.92rem;line-height:1.6}
@media (max-width:44rem){.ctwe .in{padding:1rem .8rem 2rem}.ctwe .suspect{padding:.7rem .8rem .8rem}
.ctwe .chance{margin-left:0}.ctwe .choices kbd,.ctwe .keys,.ctwe .desk kbd{display:none}}
@media print{.ctwe .desk,.ctwe .choices,.ctwe .keys{display:none}.ctwe .suspect.now{box-shadow:none}}
"""
