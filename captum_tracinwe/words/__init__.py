"""From scores to words: texts and their words, a score's exact shares, synonyms, and the report on words and labels."""

from captum_tracinwe.words.asking import ask_about
from captum_tracinwe.words.influence import (
    Vocabulary,
    WordInfluence,
    WordShare,
    names_by_id,
    position_shares,
)
from captum_tracinwe.words.joining import joined
from captum_tracinwe.words.report import ReportedWord, WordReport, word_report
from captum_tracinwe.words.splitting import split_by_token
from captum_tracinwe.words.synonyms import SynonymInfluence, WordMatch, synonym_influence, synonym_scores
from captum_tracinwe.words.texts import SEPARATOR, TokenizedText, from_ids, tokenize

__all__ = [
    "SEPARATOR",
    "ReportedWord",
    "SynonymInfluence",
    "TokenizedText",
    "Vocabulary",
    "WordInfluence",
    "WordMatch",
    "WordReport",
    "WordShare",
    "ask_about",
    "from_ids",
    "joined",
    "names_by_id",
    "position_shares",
    "split_by_token",
    "synonym_influence",
    "synonym_scores",
    "tokenize",
    "word_report",
]
