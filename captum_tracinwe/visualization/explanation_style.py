"""What the page of an explanation adds to the style sheet of all pages."""

__all__ = ["EXPLANATION_STYLE"]

# Labels wrap and texts are cut by width alone, so that one list serves wide and narrow screens; tables become blocks on these.
#: The style sheet, for behind that of all pages.
EXPLANATION_STYLE = """
.ctwe :is(h1,h4,li,summary,td,th){overflow-wrap:anywhere}
.ctwe a{color:var(--pro-ink)}.ctwe a:not([href]){color:inherit;text-decoration:none}
.ctwe.run a.w{cursor:pointer;text-decoration:underline dotted;text-underline-offset:3px}
.ctwe.run a.w:hover{text-decoration-style:solid}
.ctwe [hidden]{display:none!important}
.ctwe .lead{font-size:1.1rem;max-width:62rem}
.ctwe .warning{border:2px solid var(--opp-ink);border-radius:8px;padding:.6rem .9rem;max-width:62rem;margin:.2rem 0 1rem;
font-size:1.05rem}
.ctwe .warning b:first-child{color:var(--opp-ink)}
.ctwe h2.part{font-size:1.25rem;color:var(--fg);margin:0}
.ctwe section{margin-top:2.2rem}
.ctwe .head{align-items:center}.ctwe .head button{margin-left:auto}
.ctwe .said-of{color:var(--soft);font-size:.9rem;max-width:62rem}
.ctwe .key{font-size:.88rem}
.ctwe .contents{list-style:none;display:grid;grid-template-columns:repeat(auto-fit,minmax(min(12.5rem,100%),1fr));gap:.6rem;
margin:1rem 0 0;padding:0}
.ctwe .contents li{border:1px solid var(--line);border-radius:8px;padding:.5rem .8rem;font-size:.88rem;color:var(--soft)}
.ctwe .contents>li>a{display:block;font-weight:650;font-size:.98rem}
.ctwe .classes{margin-top:1.4rem}.ctwe .classes h2{margin-bottom:.1rem}
.ctwe table.each{table-layout:auto;max-width:44rem}
.ctwe table.each :is(th,td){width:auto;padding:.08rem 1rem .08rem 0}.ctwe table.each thead th{color:var(--soft)}
.ctwe table.each td.b{width:22%}.ctwe table.each td:nth-child(3){white-space:nowrap}.ctwe table.each tbody th{max-width:20rem}
.ctwe :is(table.each,table.words) .bar{display:block;height:.6rem;min-width:3rem}
.ctwe :is(table.each,table.words) .bar b{height:100%}.ctwe .bar b.c{background:var(--soft)}
.ctwe table.shares b.p{background:rgb(var(--pro)/.75)}
.ctwe table.shares b.o{background:repeating-linear-gradient(90deg,rgb(var(--opp)/.85) 0 4px,rgb(var(--opp)/.45) 4px 6px)}
.ctwe small{color:var(--soft);font-weight:400}
.ctwe .desk{display:block;position:sticky;top:0;z-index:2;background:var(--bg);border-bottom:1px solid var(--line);
padding:.6rem 0 .4rem;margin-top:1.4rem}
.ctwe .desk .row{gap:.4rem .5rem;align-items:center}.ctwe .desk p{margin:.25rem 0 0;font-size:.85rem;color:var(--soft)}
.ctwe .desk p b{color:var(--fg)}
.ctwe :is(button,select,input){font:inherit;font-size:.88rem;line-height:1.4;color:var(--fg);background:var(--quiet);
border:1px solid var(--soft);border-radius:6px;padding:.28rem .6rem;max-width:100%}
.ctwe :is(button,select){cursor:pointer}.ctwe button:hover{border-color:var(--fg)}
.ctwe #filters{display:none}.ctwe #choices{display:contents}.ctwe button:disabled{color:var(--soft);cursor:default}
.ctwe .desk input{flex:2 1 13rem;min-width:0}.ctwe .desk select{flex:1 1 8rem;min-width:0;width:8rem}
.ctwe :is(button,select,input,summary,a,li):focus-visible{outline:3px solid var(--pro-ink);outline-offset:2px;border-radius:4px}
.ctwe :is(summary,li):focus-visible{outline-offset:-3px}
.ctwe .list{margin:.6rem 0 0;padding:0;list-style:none}
.ctwe .where{font-size:.8rem;color:var(--soft);white-space:nowrap;max-width:12rem;overflow:hidden;text-overflow:ellipsis}
.ctwe :is(.answer,.group){border:1px solid var(--line);border-bottom-width:0;margin:0;background:var(--card)}
.ctwe :is(.answer,.group):first-child{border-radius:8px 8px 0 0}
.ctwe :is(.answer,.group):last-child{border-radius:0 0 8px 8px;border-bottom-width:1px}
.ctwe :is(.answer,.group)>summary{display:grid;gap:.1rem .9rem;align-items:baseline;padding:.4rem .8rem;font-size:.9rem;
color:var(--fg);grid-template-columns:7rem minmax(0,1fr) minmax(0,1fr) max-content;list-style:none}
.ctwe .group>summary{grid-template-columns:7rem minmax(0,1fr) minmax(0,1fr)}
.ctwe :is(.answer,.group)>summary::-webkit-details-marker{display:none}
.ctwe :is(.answer,.group)>summary .where::before{content:"▸ "}
.ctwe :is(.answer,.group)[open]>summary .where::before{content:"▾ "}
.ctwe :is(.answer,.group)>summary:hover{background:var(--quiet)}
.ctwe summary .start{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.ctwe .answer[open]>summary .start{display:none}.ctwe .answer[open]>summary .turn{grid-column:2/4}
.ctwe .answer[open]{border-left:4px solid var(--pro-ink);padding-bottom:.6rem}
.ctwe .answer[open]>summary{font-size:1rem}
.ctwe .arrow{color:var(--soft)}
.ctwe .sure{font-variant-numeric:tabular-nums;white-space:nowrap;text-align:right;color:var(--soft)}
.ctwe :is(.answer,.group)>:not(summary){margin-left:.8rem;margin-right:.8rem}
.ctwe .answer h4{font-size:.92rem;color:var(--fg);font-weight:400;margin:.8rem 0 .2rem}
.ctwe .answer h4.p{border-bottom:2px solid rgb(var(--pro))}.ctwe .answer h4.o{border-bottom:2px dashed rgb(var(--opp))}
.ctwe .pair{padding:.45rem 0;border-top:1px solid var(--line)}.ctwe h4+.pair{border-top:0}
.ctwe .pair .text{margin:.15rem 0;line-height:1.65;font-size:.95rem}
.ctwe .like{font-size:.8rem}
.ctwe table.shares{table-layout:auto;max-width:26rem;margin:.15rem 0 0;font-size:.8rem}
.ctwe table.shares td.b b{display:block;height:.6rem;width:calc(var(--a)*100%);min-width:1px}
.ctwe table.shares th{width:40%}.ctwe table.shares td.n{width:1%}.ctwe table.shares td.b{width:45%}
.ctwe table.shares tr.none :is(th,td){color:var(--soft)}
.ctwe .scale{font-size:.78rem;color:var(--soft)}
.ctwe table.words{table-layout:auto;max-width:none;margin:.6rem 0;font-size:.88rem}
.ctwe table.words :is(th,td){width:auto;padding:.22rem 1rem .22rem 0;vertical-align:baseline}
.ctwe table.words thead th{color:var(--soft);border-bottom:1px solid var(--line);white-space:nowrap}
.ctwe table.words thead .n{text-align:right}
.ctwe table.words tbody tr{border-bottom:1px solid var(--line)}
.ctwe table.words tr.firm th{font-weight:700}.ctwe table.words td:nth-child(3) .bar{
display:inline-block;width:5rem;margin-right:.5rem}
.ctwe table.words td:is(:nth-child(3),:nth-child(6)){white-space:nowrap}.ctwe table.words td:nth-child(7){font-size:.92em}
.ctwe table.words td:nth-child(7) a{white-space:nowrap}.ctwe table.words th{min-width:8.5rem}
.ctwe table.words td:nth-child(6) .bar{display:inline-block;width:4rem;margin-right:.5rem}
.ctwe table.words td:nth-child(6) .bar+span{display:inline-block;min-width:3.6rem}
.ctwe .group ul{list-style:none;padding:0;margin-top:.2rem;margin-bottom:.6rem}
.ctwe .group li{display:flex;flex-wrap:wrap;gap:.1rem .6rem;align-items:baseline;padding:.2rem 0;border-top:1px solid var(--line)}
.ctwe .group li .start{flex:1 1 20rem;font-size:.92rem}
.ctwe .odds{color:var(--opp-ink)}
.ctwe ol.list>li{border-top:1px solid var(--line);padding:.45rem 0}
.ctwe .list>*{content-visibility:auto;contain-intrinsic-size:auto 2.3rem}.ctwe ol.list>li{contain-intrinsic-size:auto 4rem}
.ctwe ol.list .text{margin:.1rem 0;line-height:1.6;font-size:.95rem}
.ctwe .taught{font-size:.82rem;color:var(--soft)}.ctwe .taught details{display:inline}
.ctwe .taught details[open]{display:block}
.ctwe ::highlight(sought){background:#ffd84d;color:#1b1f24}
.ctwe .here,.ctwe :target:not(section){background:rgb(var(--pro)/.12)}
.ctwe .more-of{margin:.6rem .5rem .2rem 0}
.ctwe details.more>summary{padding:.15rem 0}
.ctwe .fold{margin:0;display:inline}.ctwe .fold>summary{list-style:none;font-size:inherit;color:inherit}
.ctwe .fold>summary::-webkit-details-marker{display:none}.ctwe .fold[open]::details-content{display:contents}
.ctwe .fold .more{font-size:.8rem;color:var(--soft);text-decoration:underline;text-underline-offset:2px;white-space:nowrap}
.ctwe .fold[open] .more{display:none}
@media (max-width:62rem){.ctwe :is(.answer,.group)>summary{grid-template-columns:minmax(0,1fr) auto}
.ctwe .group>summary{grid-template-columns:minmax(0,1fr)}
.ctwe :is(.answer,.group)>summary .start{grid-column:1/-1;grid-row:3}.ctwe .answer>summary .turn{grid-column:1/-1;grid-row:2}

.ctwe .answer[open]>summary .turn{grid-column:1/-1}
.ctwe table.words,.ctwe table.words :is(tbody,tr,th,td){display:block}.ctwe table.words thead{display:none}
.ctwe table.words tr{padding:.4rem 0}.ctwe table.words :is(th,td){padding:.05rem 0}
.ctwe.ctwe.ctwe table.words td{text-align:left}
.ctwe table.words th{font-size:1rem}.ctwe table.words td:is(:nth-child(4),:nth-child(5),:nth-child(6)){
display:inline-block;padding-right:1.2rem}
.ctwe table.words td .bar{display:none!important}
.ctwe table.words td::before{content:attr(data-h) ": ";color:var(--soft)}}
@media (max-width:44rem){.ctwe .in{padding:1rem .8rem 2rem}.ctwe h1{font-size:1.25rem}.ctwe .lead{font-size:1rem}
.ctwe table.each :is(td,th):nth-child(4){display:none}.ctwe table.each :is(th,td){padding-right:.5rem}
.ctwe #filters{display:inline-block}.ctwe #choices{display:none}
.ctwe .open #choices{display:grid;gap:.35rem;flex:1 1 100%}.ctwe .desk select{width:100%}
.ctwe table.each :is(td.b,thead td){display:none}.ctwe .contents{grid-template-columns:1fr;gap:.35rem}
.ctwe .contents li{padding:.3rem .6rem}}
@media print{.ctwe .desk,.ctwe button{display:none}}
"""
