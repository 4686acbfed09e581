"""The same problem in disguise: what the matcher has to see through, and a few changes that make another problem.

`SEEN` were at hand when the matcher was written. `UNSEEN` were written before it, put aside, and first run when it was
finished; capitals, markup, digressions, polite requests, decimals and lookalike letters were corrected after that run.
`OTHER` are other problems: their numbers differ.
"""

import random
import re
from collections.abc import Callable, Mapping

Disguise = Callable[[str, random.Random], str]

NAMES = "Amira Bogdan Chiara Dmitri Elif Farid Gwen Hiroshi Ines Jomo Katya Lars Mei Nadia Oskar Priya".split()
_NUMERALS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_FORMULA = re.compile(r"\$\$.*?\$\$|(?<!\\)\$(?:\\.|[^$\\])+\$|\\\[.*?\\\]|\\begin\{align.*?\\end\{align", re.DOTALL)
_RUN = re.compile(r"\\(?:text|mbox|begin|end|mathrm|operatorname)\{[^}]*\}|\\?[A-Za-z]+")
_DRAWING = re.compile(r"(\[asy\].*?\[/asy\])", re.DOTALL)


def words(text: str) -> list[re.Match[str]]:
    """The plain words of a text: neither in a formula nor in a drawing."""
    hidden = [m.span() for m in re.finditer(r"\[asy\].*?\[/asy\]|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)", text, re.DOTALL)]
    found = re.finditer(r"(?<![\\\w{])[A-Za-z]{2,}(?![\w}])", text)
    return [m for m in found if not any(start <= m.start() < end for start, end in hidden)]


def replace_at(text: str, match: re.Match[str], new: str) -> str:
    """The text with another word in the place of one."""
    return text[: match.start()] + new + text[match.end() :]


# Seen while the matcher was written


def write_other_latex(text: str, _: random.Random) -> str:
    """The same mathematics in another spelling."""
    text = re.sub(r"\$([^$]+)\$", r"\\(\1\\)", text)
    text = re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\dfrac\1\2", text)
    text = text.replace("\\le ", "\\leq ").replace("\\cdot", "\\times").replace("{,}", ",")
    return re.sub(r"\((?=[^()]*\))([^()\\]*)\)", r"\\left(\1\\right)", text)


def write_other_space(text: str, random: random.Random) -> str:
    """Lines broken elsewhere, spaces doubled, none around signs."""
    text = re.sub(r" *([=+<>]) *", r"\1", text)
    return re.sub(r" ", lambda _: random.choice((" ", " ", "  ", "\n")), text)


def insert_word(text: str, random: random.Random) -> str:
    """A filler word between two words."""
    places = words(text)[1:]
    if not places:
        return text
    at = random.choice(places).start()
    return text[:at] + random.choice(("simply ", "here ", "then ", "actually ", "again ", "exactly ")) + text[at:]


def drop_word(text: str, random: random.Random) -> str:
    """Any one word fewer."""
    places = words(text)
    if len(places) < 4:
        return text
    place = random.choice(places)
    return text[: place.start()].rstrip(" ") + text[place.end() :]


def drop_three_words(text: str, random: random.Random) -> str:
    """Three words fewer."""
    for _ in range(3):
        text = drop_word(text, random)
    return text


def mistype(text: str, random: random.Random) -> str:
    """Two letters of a word swapped, one missing or one doubled."""
    places = [m for m in words(text) if len(m.group()) >= 4]
    if not places:
        return text
    place = random.choice(places)
    word = place.group()
    at = random.randrange(1, len(word) - 1)
    changed = (
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
    )
    return replace_at(text, place, random.choice(changed))


def number_it(text: str, random: random.Random) -> str:
    """The number that a sheet gives it."""
    n = random.randrange(1, 40)
    return (
        random.choice((f"Question {n}. ", f"{n}) ", f"Problem {n}: ", f"Q{n}. ", f"Exercise {n}.{n % 7 + 1} ")) + text
    )


def surround(text: str, random: random.Random) -> str:
    """With an introduction before and a request behind."""
    before = ("Here is a question from last week's sheet. ", "Question 7. ", "A pupil asked me this one:\n\n")
    behind = (" Show your work.", "\n\nWrite the result in a box at the end.", " Explain each step in a sentence.")
    return random.choice(before) + text + random.choice(behind)


def rename_people(text: str, random: random.Random) -> str:
    """Other names of people; a text that names nobody gets none."""
    people = sorted(PEOPLE & set(re.findall(r"\b[A-Z][a-z]+\b", text)))
    new = dict(zip(people, random.sample(NAMES, len(NAMES)), strict=False))
    return re.sub(r"\b[A-Z][a-z]+\b", lambda m: new.get(m.group(), m.group()), text)


PEOPLE = frozenset(
    "Alice Bob Carl Carla Dave Emily Fred George Hannah Jack James Jane Janet Jill Jim Joe John Josh Julia Karen Kim "
    "Lisa Mark Mary Max Mike Nick Paul Peter Rachel Sally Sam Sara Sarah Steve Susan Tim Tina Tom Tony Weng Mila Betty "
    "Natalia Ken Albert Randy Alexis Toula Joy Jasper Leila Jordan Jean Dana Bella Andrew Stephen Ella Anna Adam Amy "
    "Ann Bill Brian Charlie David Eric Henry Jason Jeff Jenny Jerry Jessica Jon Judy Kate Kevin Laura Linda Maria "
    "Martha Matt Megan Michael Molly Monica Nancy Noah Oscar Pat Rick Robert Ron Ryan Sandy Sharon Sophie Ted Terry "
    "Tommy Victor Wendy Will Zoe Claire Daniel Ben Chris Dan Greg Harry Ivan Larry Lucy Ralph Roger Rosa".split()
)


def spell(number: int) -> str:
    """A number under a thousand in words.

    >>> spell(7), spell(42), spell(300), spell(121)
    ('seven', 'forty-two', 'three hundred', 'one hundred twenty-one')
    """
    if number < 20:
        return _NUMERALS[number]
    if number < 100:
        rest = number % 10
        return _TENS[number // 10 - 2] + (f"-{_NUMERALS[rest]}" if rest else "")
    rest = number % 100
    return _NUMERALS[number // 100] + " hundred" + (f" {spell(rest)}" if rest else "")


def spell_numbers(text: str, _: random.Random) -> str:
    """Numbers between words, in words."""
    alone = r"(?<= )(?:\$(\d{1,3})\$|(?<![-+*/=<>^] )(\d{1,3}))(?=[ ?]|\. |\.$)(?! *[-+*/=<>^\\$])"
    return re.sub(alone, lambda m: spell(int(m[1] or m[2])), text)


def rename_variables(text: str, random: random.Random) -> str:
    """Other letters for the variables that stand alone in a formula."""
    if re.search(r"(?<!\\)\$\d[^$]* [a-z]{3}", text):  # prices
        return text
    formulas = " ".join(_FORMULA.findall(text))
    letters = sorted(set(filter(str.islower, "".join(filter(_is_product, _RUN.findall(formulas))))) - set("eid"))
    others = [letter for letter in "abcghkmnpqrstuvwxyz" if letter not in letters]
    random.shuffle(others)
    new = str.maketrans(dict(zip(letters, others, strict=False)))

    def rename(run: re.Match[str]) -> str:
        return run.group().translate(new) if _is_product(run.group()) else run.group()

    return "".join(
        part if part.startswith("[asy]") else _FORMULA.sub(lambda formula: _RUN.sub(rename, formula.group()), part)
        for part in _DRAWING.split(text)
    )


def _is_product(run: str) -> bool:
    return len(run) <= 3 and run.isalpha()


def keep_first_half(text: str, _: random.Random) -> str:
    """Only its first half."""
    parts = text.split(" ")
    return " ".join(parts[: (len(parts) + 1) // 2])


def change_last_sentence(text: str, random: random.Random) -> str:
    """Another request at the end."""
    sentences = re.split(r"(?<=[.?!]) +(?=[A-Z])", text)
    if len(sentences) < 2:
        return text
    end = ("Explain how you would begin.", "What can be said in general?", "Give your answer in simplest form.")
    return " ".join([*sentences[:-1], random.choice(end)])


SYNONYMS = {
    "find": "determine",
    "determine": "work out",
    "compute": "evaluate",
    "total": "overall",
    "largest": "greatest",
    "greatest": "largest",
    "smallest": "least",
    "least": "smallest",
    "integers": "whole numbers",
    "value": "quantity",
    "positive": "strictly positive",
    "equal": "identical",
    "satisfy": "fulfil",
    "each": "every",
    "distinct": "different",
    "different": "distinct",
    "ways": "methods",
    "probability": "chance",
    "express": "write",
    "such": "so",
    "given": "known",
    "suppose": "assume",
    "consider": "take",
    "has": "possesses",
    "contains": "includes",
}


def use_synonyms(text: str, _: random.Random) -> str:
    """Other words of the same meaning."""
    for place in reversed(words(text)):
        word = place.group()
        if new := SYNONYMS.get(word.lower()):
            text = replace_at(text, place, new.capitalize() if word[0].isupper() else new)
    return text


# Put aside until the matcher was first finished


def ask_first(text: str, _: random.Random) -> str:
    """The last sentence, which asks, before the others."""
    sentences = re.split(r"(?<=[.?!]) +(?=[A-Z])", _DRAWING.sub(" ", text).strip())
    return " ".join([sentences[-1], *sentences[:-1]]) if len(sentences) > 1 else text


def write_in_capitals(text: str, _: random.Random) -> str:
    """Words in capitals, formulas as they are."""
    for place in words(text):
        text = replace_at(text, place, place.group().upper())
    return text


_PLAIN = (
    ("\\le ", "≤ "),
    ("\\ge ", "≥ "),
    ("\\leq", "≤"),
    ("\\geq", "≥"),
    ("\\cdot", "·"),
    ("\\times", "×"),
    ("\\pi", "π"),
    ("\\theta", "θ"),
    ("\\alpha", "α"),
    ("\\angle", "∠"),
    ("\\triangle", "△"),
    ("^\\circ", "°"),
    ("\\neq", "≠"),
    ("\\ldots", "…"),
    ("\\infty", "∞"),
    ("^2", "²"),
    ("^3", "³"),
)


def write_plain(text: str, _: random.Random) -> str:
    """Unicode in place of LaTeX, and no dollar signs."""
    for old, new in _PLAIN:
        text = text.replace(old, new)
    text = re.sub(r"\\sqrt\{([^{}]+)\}", r"√(\1)", text)
    text = re.sub(r"\\d?frac\{([^{}]+)\}\{([^{}]+)\}", r"(\1)/(\2)", text)
    return text.replace("$", "").replace("\\left", "").replace("\\right", "")


def mark_up(text: str, random: random.Random) -> str:
    """Markdown and HTML around it."""
    text = re.sub(r"(?<=[.?!]) +(?=[A-Z])", random.choice(("</p>\n<p>", "<br/>", "\n\n- ", "\n\n> ")), text)
    before, after = random.choice((("<p>", "</p>"), ("**Problem.** ", ""), ("### Problem\n\n", "\n\n---"), ("*", "*")))
    return before + text + after


def offer_choices(text: str, random: random.Random) -> str:
    """Answers to choose from behind it."""
    first = random.randrange(1, 50)
    options = [f"({letter}) {first + 3 * i}" for i, letter in enumerate("ABCDE")]
    return text + random.choice(("\n", " ")) + random.choice(("\n", "  ")).join(options)


def request_form(text: str, random: random.Random) -> str:
    """A request for the form of the answer, as prompts of models have it."""
    requests = (
        "\nPlease reason step by step, and put your final answer within \\boxed{}.",
        "\nLet's think step by step and output the final answer within $\\boxed{}$.",
        '\n\nRemember to put your answer on its own line after "Answer:".',
        " (Round your answer to 2 decimal places if needed.)",
    )
    return text + random.choice(requests)


def scan_badly(text: str, random: random.Random) -> str:
    """Three errors of a scanner in words."""
    confused = {"rn": "m", "l": "1", "o": "0", "h": "b", "cl": "d", "i": "l", "e": "c"}
    places = [m for m in words(text) if len(m.group()) >= 5]
    for place in sorted(random.sample(places, min(3, len(places))), key=lambda m: -m.start()):
        held = [old for old in confused if old in place.group()[1:]]
        if held:
            old = random.choice(held)
            head, tail = place.group()[0], place.group()[1:]
            text = replace_at(text, place, head + tail.replace(old, confused[old], 1))
    return text


def digress(text: str, random: random.Random) -> str:
    """A sentence that says nothing, in the middle."""
    sentences = re.split(r"(?<=[.?!]) +(?=[A-Z])", text)
    if len(sentences) < 2:
        return text
    idle = ("This is a well-known kind of problem.", "Take your time.", "Note that no calculator is allowed here.")
    at = random.randrange(1, len(sentences))
    return " ".join([*sentences[:at], random.choice(idle), *sentences[at:]])


def group_digits(text: str, _: random.Random) -> str:
    """Thousands with a comma, decimals with a zero."""
    parts = _DRAWING.split(text)
    parts[::2] = (re.sub(r"(?<![\d.,])(\d{1,3})(\d{3})(?![\d,])", r"\1,\2", part) for part in parts[::2])
    parts[::2] = (re.sub(r"(?<!\d)\.(?=\d)", "0.", part) for part in parts[::2])
    return "".join(parts)


def use_lookalikes(text: str, random: random.Random) -> str:
    """Letters of other alphabets that look the same, and characters that do not show."""
    same = {"a": "а", "e": "е", "o": "о", "c": "с", "p": "р"}
    for place in reversed(words(text)):
        if random.random() < 0.3:
            text = replace_at(text, place, "".join(same.get(letter, letter) for letter in place.group()))
        elif random.random() < 0.3:
            text = replace_at(text, place, place.group()[:1] + "\u200b" + place.group()[1:])
    return text


def lose_the_end(text: str, _: random.Random) -> str:
    """Its last tenth is missing."""
    parts = text.split(" ")
    return " ".join(parts[: len(parts) - max(1, len(parts) // 10)])


def ask_politely(text: str, random: random.Random) -> str:
    """Another way to ask."""
    new = random.choice(("Could you please tell me", "I need to know", "Please calculate"))
    return re.sub(r"\b(What is|Find|Compute|Determine|Evaluate|Calculate)\b", new, text, count=1)


def unpunctuate(text: str, _: random.Random) -> str:
    """Neither punctuation nor capitals between words."""
    text = re.sub(r"(?<=[A-Za-z])[,.;:?!](?=\s|$)", "", text)
    return re.sub(r"(?<=[a-z] )[A-Z](?=[a-z])", lambda m: m.group().lower(), text)


# Other problems


def renumber(text: str, random: random.Random) -> str:
    """One number changed: a variant, which is another problem but trains on the same."""
    places = list(re.finditer(r"\d+", _DRAWING.sub(lambda m: " " * len(m.group()), text)))
    if not places:
        return text
    place = random.choice(places)
    return replace_at(text, place, str(int(place.group()) + random.randrange(1, 9)))


def renumber_all(text: str, random: random.Random) -> str:
    """Every number changed."""
    more = random.randrange(1, 9)
    return "".join(
        part if part.startswith("[asy]") else re.sub(r"\d+", lambda m: str(int(m.group()) + more), part)
        for part in _DRAWING.split(text)
    )


SEEN: Mapping[str, Disguise] = {
    "as it is": lambda text, _: text,
    "other LaTeX": write_other_latex,
    "other space": write_other_space,
    "a word inserted": insert_word,
    "a word dropped": drop_word,
    "three words dropped": drop_three_words,
    "a typo": mistype,
    "numbered": number_it,
    "a frame around it": surround,
    "other names": rename_people,
    "numbers spelled": spell_numbers,
    "other variables": rename_variables,
    "first half": keep_first_half,
    "last sentence changed": change_last_sentence,
    "synonyms": use_synonyms,
}
UNSEEN: Mapping[str, Disguise] = {
    "question first": ask_first,
    "capitals": write_in_capitals,
    "plain Unicode": write_plain,
    "markup": mark_up,
    "choices behind": offer_choices,
    "form requested": request_form,
    "badly scanned": scan_badly,
    "digression": digress,
    "digits grouped": group_digits,
    "lookalike letters": use_lookalikes,
    "end missing": lose_the_end,
    "asked politely": ask_politely,
    "no punctuation": unpunctuate,
}
OTHER: Mapping[str, Disguise] = {"renumbered": renumber, "all renumbered": renumber_all}
