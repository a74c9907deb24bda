"""Pictures of `WordInfluence` and `WordReport`: an HTML page, a terminal, matplotlib figures, Captum's records."""

from captum_tracinwe.visualization.captum_records import to_captum_records, visualize_text
from captum_tracinwe.visualization.page import word_influence_fragment, word_influence_html, write_html
from captum_tracinwe.visualization.plots import plot_influence_matrix, plot_word_influence, plot_word_report
from captum_tracinwe.visualization.report_page import (
    report_section,
    word_report_fragment,
    word_report_html,
    word_report_text,
)
from captum_tracinwe.visualization.synonym_page import (
    synonym_influence_fragment,
    synonym_influence_html,
    synonym_influence_text,
)
from captum_tracinwe.visualization.terminal import word_influence_text

__all__ = [
    "plot_influence_matrix",
    "plot_word_influence",
    "plot_word_report",
    "report_section",
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
