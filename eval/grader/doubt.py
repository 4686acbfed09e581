r"""Recognises that a text denies, doubts, supposes or takes back a value: "\boxed{7} is wrong", "if n were 5", "7? No,
8".

    refuted("\\boxed{15} double counts.", 0, 10)  ->  True

Such a value is not credited. The lists of words were tried on thousands of labelled completions: words that occur
often beside right answers ("would", "should", "possible") are left out. No list can be complete: a denial in other
words is missed.
"""

import re

NEAR = 120  # characters before a value in which its clause is read
REST = 400  # characters behind it


def _any(words: str, phrases: str = "") -> str:
    """Compile a pattern that matches any of the words, which are separated by spaces, or of the phrases, one
    per line.
    """
    return "|".join([*words.split(), *filter(None, map(str.strip, phrases.splitlines()))])


# Before a value in its clause, or around it: it is doubted, supposed, someone else's, an earlier one, or no answer yet
_BEFORE = _any(
    r"""unless until otherwise whether suppos\w+ assum\w+ impossible contradict\w+ fail(?:s|ed) wrong(?:ly)?
    incorrect(?:ly)? false(?:ly)? mistak\w+ perhaps maybe might(?!\sas) probably possibly presumabl[ey] apparently
    arguably unclear unlikely careless tempt\w+ myth naive nonsense absurd silly typo said argue[sd]? insist\w*
    assert\w* believ\w+ suspect\w* wonder\w* imagine[sd]? hop(?:e|ed|ing) wish\w* alleg\w+ speculat\w+ conjectur\w*
    hypothe\w+ seemed appear(?:s|ed) look(?:s|ed) feels felt thought intend\w* meant tr(?:y|ied|ying) forg[eo]t\w*
    overlook\w* misread\w* unfortunately sorry oops hmm+ nope cannot
    (?:was|are|does|ca|could|should|would|have|has)n't someone somebody nobody forum chatgpt told withdraw\w*
    retract\w* pretend\w* placeholder illustration submitted reported format unmodified intermediate preliminary
    tentative\w* provisional\w* crude\w* draft stuck extraneous refuse\w* disagree deny reject discard eliminate
    exclude""",
    r"""(?<!no )(?<!without )doubt\w*
    guess that
    to guess
    sign error
    rather than
    at first (?:glance|sight)
    first (?:thought|answer|guess|attempt|try|result|count|calculation|computation)
    (?:i|we) (?:initially|first|originally|once)
    used to be
    is either
    (?:expected|official|intended|given|printed|published|claimed) (?:answer|solution|result|value)
    (?:earlier|previous|old) (?:answer|version|attempt|solution)
    under no
    in no way
    no longer
    anything but
    if memory serves
    for now
    (?:to|must) (?:prove|show)
    without\b.*\bwould
    (?:although|even though|whereas|while)\b[^,]*$
    (?:as|just|only|merely) an? (?:example|approximation|estimate)
    in progress
    (?:sample|practice|similar) problem
    partial (?:result|answer)
    not the (?:final )?answer
    if (?:i|my)\b
    would be .*\bwere\b
    would have to be
    they expect
    rul(?:e|ed|ing) out
    according to
    (?:is|are|was|were|be|been) (?:rejected|discarded|excluded|eliminated|ruled out)
    answer (?:has|contains)
    no (?:one|proof|evidence|reason|way|means)
    (?:might|may|could|would) (?:think|say|claim|conclude|guess|expect)
    (?:claim|suggest)(?:s|ed)
    (?:they|some|someone|people|others|many|he|she|key|\w*book|friend)(?: \w+)? (?:says?|said|thinks?|thought|believes?)
    (?:some|others|people|students?|solvers)(?: \w+)? (?:gets?|got|writes?|wrote|says?|said)""",
)
_SUPPOSED = re.compile(  # of lower case, which is twice as fast as ignoring it
    rf"^\W*say\b|\b(?:{_BEFORE})\b|^\W*(?:were|had)\b|若|如果|假设|\?\W*$"
)
_NEGATED = re.compile(  # I do not believe the answer is 7; if the answer is 7; the expected answer is 7
    r"\b(?:if|not|cannot|never|hardly|neither)\b|n't\b"
    r"|\b(?:wrong|incorrect|false|first|initial|expected|reference|naive|given|claimed|stated)\s*$",
    re.IGNORECASE,
)
_CLAUSE_BEGINS = re.compile(
    r"[.,;:!?\n，。；](?!\d)|\b(?:so|hence|thus|therefore|and|but|yet|then|means|because)\b", re.IGNORECASE
)
_REFUSED = re.compile(  # it is not \boxed{7}, less than \boxed{7}
    r"(?:\bnot|n't|\b(?:cannot|not|n't) be"
    r"|\b(?:less|more|greater|fewer|smaller|larger|other|rather) than|\binstead of|\bdoubt (?:that )?(?:it|this) is"
    r"|(\banswer\s+(?:is|was|were|be|might be|could be)))\W*\Z"
)
_BOX_CLAUSE = re.compile(r"[.!?;\n](?!\d)|\b(?:so|hence|thus|therefore|final(?:ly)?)\b", re.IGNORECASE)

# Directly behind a value: it is wrong, it was a guess
_REFUTED = re.compile(  # \boxed{7} is wrong; 7, which contradicts the hypothesis; 7: it fails; 7? No.
    r"[\s$*.)\]\\]*(?:\?+\s*(?:no|not|never|wrong|that|I)\b"
    r"|(?:[^.!?\n\d\\]{0,50}?[,;:.]?\s*\b(?:which|but|this|that|it|they|and|yet)\b\s*(?:that|it|this)?)?\s*"
    r"(?:(?:is|was) (?:what I got|my) (?:at )?(?:first|initial)"
    r"|(?:is|was|are|must be|seems)(?: \w+ly)? ?(?:wrong|incorrect|mistaken|false|impossible|absurd|invalid|refuted"
    r"|not (?:correct|right|true|possible|valid|the|an?|our))\b|(?:is|was)n't\b|contradict\w*|fail(?:s|ed)\b|cannot\b"
    r"|can't\b|violates|(?:does|do|did)(?:n't| not)\s+(?:satisf|work|fit|hold|look|seem)))",
    re.IGNORECASE,
)
_PAST = re.compile(  # \boxed{6} was my guess, \boxed{33} is an overestimate
    r"[\s$*.)\]\\]*(?:was|were|would|used to|came from|seems|looks|appears|counts|violates"
    r"|(?:is|are) (?:an?|only|just|merely|too|what|no)\b)\b"
)
# In the rest of its sentence and in two more
_NEXT_SENTENCES = re.compile(  # the rest of a sentence, and two more on its line or a last paragraph
    r"[^.!?\n]*+(?:[.!?]+[$)*]* +[^.!?\n(]*+){0,2}[.!?]*(?:\s*\n\s*(?:Edit|Update|Correction|PS)\b[^\n]*)?"
)
_BEHIND = _any(
    r"""but however though unless hmm+ wait oops sorry afraid unfortunately actually instead maybe perhaps probably
    possibly likely doubt\w* think thought believe feel suspect wonder\w* wish hope guess\w* suppos\w+ forg[eo]t\w*
    missed overlook\w* misread wrong(?:ly)? incorrect(?:ly)? mistak\w+ errors? over-?counts? double[-\s]?counts?
    suspicious strange weird fishy others pending \w*estimate remains? conjecture invalid disagree placeholder fixed
    correct(?:ed|ion) swapped replace(?:d|ment) ignore scrap confus\w+ typo absurd contradiction could might cannot
    \w+n't""",
    r"""(?<!that are )(?<!that is )(?<!that do )not
    (?:edit|update):
    is off
    if (?:I|my)
    may be
    oh no
    grain of salt
    except (?:that|for)
    (?:first|second|other|next) (?:question|part)
    too (?:big|small|large|high|low|much|many|few|little|long|short)
    would (?:hold|be|work|follow|need|only)
    (?:upper|lower) bound
    due to rounding
    without\b.*\bwould
    should (?:be|have)
    (?:am|are|was|is) un(?:sure|certain)
    just an example
    was lost
    what I (?:had|got)""",
)
_TAKEN_BACK = re.compile(rf"\b(?:{_BEHIND})\b", re.IGNORECASE)  # \boxed{56} double counts; 30 (placeholder)
_CONTRAST = re.compile(  # it is 7, not 8
    r"\A[\s$*)\]\\,]*\(?(?:and )?(?:not|rather than|instead of|as opposed to)[ \\($*]+-?\d[^.,;\n]*"
)


# What closes a completion and says nothing of its answer: it is the final answer; $\\blacksquare$; I hope it helps
CLOSING = re.compile(
    r"(?:(?:,[ \t]+which)?[ \t]+is[ \t]+(?:the|our)[ \t]+(?:final |correct )?answer\b"
    r"|(?<!!)[ \t]+[\U0001f000-\U0001faff]+|[ \t]*\$?(?:\\blacksquare|\\square|\\qed|QED|[∎■□✓✔✅])\$?"
    r"|\s+\((?:If|This|In|That|Note)\b[^()\n]{0,120}\)"
    r"|(?:\s+(?:(?:I hope|Hope|Let me know|Feel free|Please (?:let|feel)|If you (?:have|need|want|would)|Would you like"
    r"|Happy to)\b[^.!?\n]{0,120}|Nice|Great|Done|Perfect)[.!?]*)+|\n\W*(?i:confidence|certainty)\W*\d+\s*%?)[^\w$]*\Z"
)


def supposed(text: str) -> bool:
    """Whether a text doubts something, supposes it, or reports it as said by others."""
    return _SUPPOSED.search(text.lower()) is not None


def doubted(text: str, at: int) -> bool:
    """Whether the clause before a position denies, doubts or supposes the value at that position."""
    before = text[max(0, at - NEAR) : at]
    *_, begins = [0, *(match.end() for match in _CLAUSE_BEGINS.finditer(before))]
    return supposed(before[begins:]) or _NEGATED.search(before, begins) is not None


def refuted(text: str, start: int, end: int, since: int = 0) -> bool:
    """Whether the text denies, supposes or takes back a marked answer, in the sentence before it or in the text after
    it.
    """
    before = text[max(since, start - NEAR) : start]
    found = _REFUSED.search(before, max(0, len(before) - 40))
    if found and (not found[1] or doubted(before, found.start())):
        return True
    before = before[max(before.rfind(mark) for mark in (". ", "! ", "? ", "; ", "\n")) + 1 :]
    return (supposed(before) and supposed(_BOX_CLAUSE.split(before)[-1])) or taken_back(text, end)


def taken_back(text: str, end: int) -> bool:
    """Whether the text after a marked answer denies, doubts or corrects it."""
    if not text[end : end + REST].strip(" \n.$*)]\\"):
        return False
    if _REFUTED.match(text, end, end + REST) or _PAST.match(text, end):
        return True
    behind = _NEXT_SENTENCES.match(text, end, end + REST)
    said = _CONTRAST.sub("", CLOSING.sub("", behind[0])) if behind else ""
    return _TAKEN_BACK.search(said) is not None or re.search(r"(?<!\?)\?(?!\?)", said) is not None
