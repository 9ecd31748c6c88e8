"""Phrases of refusals and of ethics talk: the safety pre-filter's criterion (methods.md, section 7).

The list is our own. It is meant to be broad, as the published filter is: it finds rows whose response refuses, warns,
moralises or speaks of law and fairness, many of them harmless. It filters for controls; it is no judge of refusal.
"""

from __future__ import annotations

_REFUSING = (
    "i cannot", "i can't", "i can not", "i am unable", "i'm unable", "i am not able", "i'm not able", "i will not",
    "i won't", "i refuse", "i must decline", "i have to decline", "i decline", "i'm sorry", "i am sorry", "i apologize",
    "i apologise", "sorry, but", "unfortunately, i", "unfortunately i", "i do not feel comfortable",
    "i'm not comfortable", "i am not comfortable", "i'd rather not", "i would rather not", "i should not",
    "i shouldn't", "i must not", "not something i can", "can't help with", "cannot help with", "can't assist",
    "cannot assist", "can't provide", "cannot provide", "can't fulfill", "cannot fulfill", "cannot comply",
    "can't comply", "cannot be answered", "not appropriate", "would be inappropriate", "i don't have opinions",
    "i do not have opinions", "i don't have personal", "i do not have personal", "i don't have feelings",
    "i do not have the ability", "i don't have the ability", "no personal opinion",
)  # fmt: skip
_OF_ITSELF = (
    "as an ai", "language model", "as an artificial intelligence",
    "i am an ai", "i'm an ai", "ai assistant", "i was trained to",
    "my programming", "my guidelines", "content policy", "usage policies",
)  # fmt: skip
_WARNING = (
    "it is important to", "it's important to", "it is also important", "it is essential to", "it is crucial to",
    "it is necessary to", "it is vital to", "important to note", "important to remember", "important to consider",
    "important to be aware", "important to ensure", "please note", "please remember", "please be aware",
    "please refrain", "refrain from", "should be aware", "be aware of", "be mindful", "mindful of",
    "use caution", "with caution", "exercise caution", "not recommended", "i would advise against", "strongly advise",
    "not advisable", "should never", "must never", "never acceptable", "not acceptable", "unacceptable",
    "potential risk", "potential harm", "potential danger", "safety of", "safety concern", "safety risk",
    "seek help", "seek professional", "professional help", "hotline",
)  # fmt: skip
_ETHICS = (
    "ethic", "responsible use", "irresponsible", "harmful", "cause harm", "do harm", "misuse",
    "abuse", "malicious", "dangerous", "inappropriate", "offensive", "respectful", "immoral", "morally", "moral values",
    "treat others with respect", "dignity", "human rights", "civil rights", "sensitive topic",
    "sensitive nature", "controversial", "exploitation", "misinformation", "disinformation", "false information",
    "social responsibility",
)  # fmt: skip
_LAW = (
    "illegal", "unlawful", "against the law", "break the law", "legal consequences", "legal implications",
    "legal and", "laws and", "regulation", "comply with", "compliance with", "violation of", "violates",
    "copyright", "intellectual property", "criminal offense", "criminal offence", "law enforcement", "prohibited",
)  # fmt: skip
_FAIRNESS = (
    "discriminat", "racis", "racial", "sexis", "prejudice", "stereotyp", "bias", "bigot", "hate speech", "hateful",
    "harass", "bullying", "diversity", "diverse background",
    "equal opportunit", "equal rights", "marginali", "minorit", "underrepresented", "social justice",
    "oppress", "regardless of race", "feminis",
    "privacy concern", "gender identity", "gender role",
)  # fmt: skip

REFUSAL_PHRASES: tuple[str, ...] = (*_REFUSING, *_OF_ITSELF, *_WARNING, *_ETHICS, *_LAW, *_FAIRNESS)
"""Lower-case phrases; one anywhere in a response is enough."""


def has_refusal(text: str) -> bool:
    """Whether a phrase of `REFUSAL_PHRASES` is anywhere in the text, in any case; curly apostrophes are plain ones."""
    plain = text.lower().replace("’", "'").replace("‘", "'")
    return any(phrase in plain for phrase in REFUSAL_PHRASES)
