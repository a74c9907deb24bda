"""The style sheet of the HTML page, valid inside ``.ctwe`` only: it can't disturb a notebook around it."""

__all__ = ["STYLE"]

# .ctwe three times: a notebook right-aligns and stripes the tables in its outputs with two classes and an element.
# --a: magnitude of a word's share on the page's scale, 0 to 1. The text keeps its own colour on top of it.
#: The style sheet of all pages.
STYLE = """
.ctwe{--bg:#fff;--fg:#1b1f24;--soft:#59636e;--line:#d9dee3;--card:#fff;--quiet:#f5f7f9;
--pro:0 114 178;--opp:213 94 0;--pro-ink:#005f94;--opp-ink:#a84300;--most:.5;
background:var(--bg);color:var(--fg);
font:15px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif,"Noto Color Emoji";
color-scheme:light dark;text-align:left}
@media (prefers-color-scheme:dark){.ctwe{--bg:#14171b;--fg:#e8ebee;--soft:#a0aab4;--line:#343b43;
--card:#1b2026;--quiet:#20262d;
--pro:60 150 220;--opp:235 120 40;--pro-ink:#6cb8f0;--opp-ink:#ff9a55;--most:.48}}
.ctwe *{box-sizing:border-box}
.ctwe .in{max-width:76rem;margin:0 auto;padding:1.5rem 1.25rem 3rem}
.ctwe.nb .in{padding:.75rem}
.ctwe h1{font-size:1.5rem;line-height:1.25;margin:0 0 .6rem;font-weight:650;letter-spacing:-.01em}
.ctwe h2{font-size:.8rem;margin:0;color:var(--soft);font-weight:600}
.ctwe h3{font-size:.95rem;margin:1.1rem 0 .5rem;font-weight:650}
.ctwe h3 small{font-weight:400;color:var(--soft);font-size:.85rem}
.ctwe h3.p{color:var(--pro-ink)}.ctwe h3.o{color:var(--opp-ink)}
.ctwe h4{font-size:.8rem;margin:0;color:var(--soft);font-weight:600}
.ctwe p{margin:.3rem 0}
.ctwe .legend{font-size:.85rem;line-height:1.5;color:var(--soft);border-left:3px solid var(--line);
padding:.1rem 0 .1rem .9rem;max-width:62rem}
.ctwe .legend b{color:var(--fg);font-weight:600}
.ctwe .ramp{display:inline-flex;align-items:center;gap:.5rem;white-space:nowrap;
font-variant-numeric:tabular-nums}
.ctwe .ramp i{display:inline-block;width:9rem;height:.8rem;border-radius:2px;
background:linear-gradient(90deg,
rgb(var(--opp)/var(--most)),transparent 50%,rgb(var(--pro)/var(--most)));border:1px solid var(--line)}
.ctwe .test{margin-top:1.8rem;border-top:1px solid var(--line);padding-top:1.1rem}
.ctwe .said{background:var(--quiet);border-radius:8px;padding:.7rem .95rem}
.ctwe .said .text{font-size:1.08rem}
.ctwe .row{display:flex;flex-wrap:wrap;gap:.15rem .6rem;align-items:baseline}
.ctwe .tag{font-size:.78rem;color:var(--soft);border:1px solid var(--line);border-radius:99px;
padding:0 .55rem;line-height:1.5;overflow-wrap:anywhere}
.ctwe .tag.wrong{border-color:var(--opp-ink);color:var(--opp-ink)}
.ctwe .tag b{color:var(--fg);font-weight:600}
.ctwe .text{text-align:start;white-space:pre-wrap;overflow-wrap:anywhere;margin:.35rem 0;line-height:1.75}
.ctwe .cols{display:grid;gap:0 1.25rem;grid-template-columns:minmax(0,1fr)}
@media (min-width:62rem){.ctwe .cols.two,.ctwe .cols.one>div{
grid-template-columns:minmax(0,1fr) minmax(0,1fr)}}
.ctwe .cols.one>div{display:grid;gap:0 1.25rem;align-items:start}.ctwe .cols.one h3{grid-column:1/-1}
.ctwe .card{border:1px solid var(--line);border-radius:8px;background:var(--card);
padding:.65rem .9rem .7rem;margin:0 0 .8rem;break-inside:avoid}
.ctwe .score{margin-left:auto;font-variant-numeric:tabular-nums;font-weight:650}
.ctwe .p.score{color:var(--pro-ink)}.ctwe .o.score{color:var(--opp-ink)}
.ctwe mark{color:inherit;background:none;border-radius:2px;padding:.06em 0}
.ctwe mark.p{background:rgb(var(--pro)/calc(var(--a)*var(--most)));
border-bottom:2px solid rgb(var(--pro)/calc(.25 + var(--a)*.75))}
.ctwe mark.o{background:rgb(var(--opp)/calc(var(--a)*var(--most)));
border-bottom:2px dashed rgb(var(--opp)/calc(.35 + var(--a)*.65))}
.ctwe mark.z{border-bottom:2px dotted var(--soft)}
.ctwe .asked{outline:1.5px solid var(--soft);outline-offset:1px;border-radius:2px}
.ctwe .cut{color:var(--soft);opacity:.75}
.ctwe mark:has(>bdi.s){margin-inline:.25em}
.ctwe bdi.s{white-space:nowrap;font:.78em/1.3 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
opacity:.85}
.ctwe mark bdi.s{opacity:1}
.ctwe bdi.d{font:.7em/1 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;color:var(--soft);
border:1px dashed var(--soft);border-radius:3px;padding:0 .2em;margin:0 .1em}
.ctwe table{border-collapse:collapse;font-size:.82rem;line-height:1.45;margin:.45rem 0 .1rem;width:100%;
table-layout:fixed;max-width:38rem;font-variant-numeric:tabular-nums}
.ctwe caption{text-align:left;color:var(--soft);font-size:.76rem;padding:0 0 .1rem}
.ctwe th,.ctwe td{padding:.05rem .6rem .05rem 0;font-weight:400;text-align:left;vertical-align:middle;
border:0;background:none}
.ctwe.ctwe.ctwe :is(tr,th,td){text-align:left;background:none}.ctwe.ctwe.ctwe .n{text-align:right}
.ctwe th{width:28%;overflow-wrap:anywhere}
.ctwe td.n{width:5.4rem;white-space:nowrap;text-align:right}
.ctwe td.b{padding-right:0}
.ctwe .bar{display:flex;height:.62rem}
.ctwe .bar i{flex:0 0 50%;display:flex}
.ctwe .bar i:first-child{justify-content:flex-end;border-right:1px solid var(--soft)}
.ctwe .bar b{display:block;width:calc(var(--a)*100%);min-width:1px}
.ctwe .bar b.p{background:rgb(var(--pro)/.75)}
.ctwe .bar b.o{background:repeating-linear-gradient(90deg,rgb(var(--opp)/.85) 0 4px,
rgb(var(--opp)/.45) 4px 6px)}
.ctwe table.report{max-width:none;table-layout:auto;margin:.8rem 0 1.4rem;font-size:.86rem}
.ctwe table.report :is(th,td){width:auto;padding:.14rem 1rem .14rem 0;white-space:nowrap;overflow-wrap:normal}
.ctwe table.report tbody th{max-width:14rem;overflow:hidden;text-overflow:ellipsis}
.ctwe table.report thead th{color:var(--soft);border-bottom:1px solid var(--line)}
.ctwe table.report .n{text-align:right}.ctwe table.report .b{width:9rem;min-width:5rem}
.ctwe table.report small,.ctwe table.report td:last-child{color:var(--soft);font-weight:400}
@media (max-width:62rem){.ctwe table.report :is(td,th):nth-child(7){display:none}}
.ctwe table.report tr.also th{max-width:none;color:var(--soft);padding-top:.6rem;white-space:normal}
.ctwe .scroll{overflow-x:auto}
@media (max-width:44rem){.ctwe table.report :is(td,th):nth-child(3),.ctwe table.report small{display:none}
.ctwe table.report :is(th,td){padding-right:.6rem}}
.ctwe table.matches{table-layout:auto;margin:.6rem 0 0}.ctwe table.matches :is(th,td){width:auto;padding-right:1rem}
.ctwe table.matches thead th{color:var(--soft)}
.ctwe table.matches thead th:is(:nth-child(2),:nth-child(3)){text-align:right}.ctwe table.matches .n{text-align:right}
.ctwe table.matches .b{width:9rem;min-width:5rem}
.ctwe details{margin:.3rem 0 0}
.ctwe summary{cursor:pointer;font-size:.8rem;color:var(--soft)}
.ctwe details.long>summary{list-style:none;font-size:inherit;color:inherit}
.ctwe details.long>summary::-webkit-details-marker{display:none}
.ctwe details.long>summary .more{font-size:.8rem;color:var(--soft);text-decoration:underline;
text-underline-offset:2px}
.ctwe details.long[open]>summary .text,.ctwe details .less,
.ctwe details.long[open]>summary .unfold{display:none}
.ctwe details.long[open]>summary .less{display:inline}
.ctwe .none{color:var(--soft)}
@media print{.ctwe{font-size:11px}.ctwe mark,.ctwe .bar b,.ctwe .ramp i{print-color-adjust:exact;
-webkit-print-color-adjust:exact}}
"""
