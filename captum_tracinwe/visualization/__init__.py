"""Pictures of all results: HTML pages, text for a terminal, matplotlib figures, Captum's records."""

from captum_tracinwe.explanation import Explanation
from captum_tracinwe.labels import Suspects
from captum_tracinwe.visualization.captum_records import to_captum_records, visualize_text
from captum_tracinwe.visualization.explanation_page import explanation_fragment, explanation_html
from captum_tracinwe.visualization.page import word_influence_fragment, word_influence_html, write_html
from captum_tracinwe.visualization.plots import plot_influence_matrix, plot_word_influence, plot_word_report
from captum_tracinwe.visualization.pushed_page import pushed_html
from captum_tracinwe.visualization.report_page import (
    report_section,
    word_report_fragment,
    word_report_html,
    word_report_text,
)
from captum_tracinwe.visualization.suspects_page import suspects_fragment, suspects_html
from captum_tracinwe.visualization.suspects_words import suspects_text
from captum_tracinwe.visualization.synonym_page import (
    synonym_influence_fragment,
    synonym_influence_html,
    synonym_influence_text,
)
from captum_tracinwe.visualization.terminal import word_influence_text
from captum_tracinwe.words import SynonymInfluence, WordInfluence, WordReport
from captum_tracinwe.words.drawing import drawn_as

__all__ = [
    "explanation_fragment",
    "explanation_html",
    "plot_influence_matrix",
    "plot_word_influence",
    "plot_word_report",
    "pushed_html",
    "report_section",
    "suspects_fragment",
    "suspects_html",
    "suspects_text",
    "synonym_influence_fragment",
    "synonym_influence_html",
    "synonym_influence_text",
    "to_captum_records",
    "visualize_text",
    "word_influence_fragment",
    "word_influence_html",
    "word_influence_text",
    "word_report_fragment",
    "word_report_html",
    "word_report_text",
    "write_html",
]

# Of a report that is printed, the first so many words.
_PRINTED = 12


def _printed(report: WordReport) -> str:
    more = len(report.words) - _PRINTED
    rest = f"\n  ... and {more:,} more: see to_table()" if more > 0 else ""
    return word_report_text(report, top=_PRINTED) + rest


drawn_as(WordInfluence, html=lambda pair: word_influence_fragment([pair]))
drawn_as(SynonymInfluence, html=lambda pair: synonym_influence_fragment([pair]))
drawn_as(WordReport, html=word_report_fragment, text=_printed)
drawn_as(Suspects, html=suspects_fragment, text=suspects_text)
drawn_as(Explanation, html=explanation_fragment)
