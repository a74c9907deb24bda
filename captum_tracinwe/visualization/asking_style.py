"""What the page on which a person asks adds to the style sheet of all pages."""

__all__ = ["ASKING_STYLE"]

#: The style sheet, for behind that of all pages.
ASKING_STYLE = """
.ctwe form{background:var(--quiet);border-radius:8px;padding:.9rem .95rem;margin:1rem 0;max-width:62rem}
.ctwe form label{display:block;font-size:.85rem;color:var(--soft);font-weight:600}
.ctwe form .row{align-items:flex-end;gap:.8rem;margin-top:.7rem}
.ctwe :is(textarea,select,input,button){font:inherit;color:var(--fg);background:var(--bg);border:1px solid var(--soft);
border-radius:6px;padding:.35rem .6rem;max-width:100%}
.ctwe :is(select,input,textarea){font-weight:400}
.ctwe :is(select,input,button){font-size:.92rem;line-height:1.4;height:2.3rem}
.ctwe textarea{display:block;width:100%;min-height:5.5rem;resize:vertical;line-height:1.5;margin:.15rem 0 .6rem}
.ctwe input{width:5.5rem}.ctwe :is(select,input){display:block;margin-top:.15rem}
.ctwe button{cursor:pointer;font-weight:650;color:var(--bg);background:var(--pro-ink);border-color:var(--pro-ink);
padding:0 1.4rem}
.ctwe :is(textarea,select,input,button):focus-visible{outline:2px solid var(--pro-ink);outline-offset:2px}
.ctwe .lead{font-size:1.1rem;max-width:62rem;margin:1.4rem 0 .8rem}
.ctwe .warning{border:2px solid var(--opp-ink);border-radius:8px;padding:.5rem .9rem;max-width:62rem;overflow-wrap:anywhere}
.ctwe .soft{color:var(--soft);max-width:62rem}
@media (max-width:30rem){.ctwe .ramp i{width:4rem}}
"""
