"""Disguises of competition-mathematics problems, as copies of them may look in other data sets.

STRANGERS holds kinds that keep the problem (same numbers, same question, same answer).
OTHER holds kinds that make a different problem although the text is nearly the same.
Every function takes the text and a random generator, and returns the text unchanged where it can do nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Disguise = Callable[[str, random.Random], str]

# A drawing, a piece of mathematics, or a private-use character that happens to stand in the text.
_ATOM = re.compile(
    r"(?P<asy>\[asy\].*?\[/asy\]|<asy>.*?</asy>)"
    r"|(?P<math>\\\[.*?\\\]|\\\(.*?\\\)|\$\$.+?\$\$|(?<!\\)\$(?:\\.|[^$\\])+\$"
    r"|\\begin\{(?P<env>\w+\*?)\}.*?\\end\{(?P=env)\})"
    r"|[\ue000-\uf8ff]",
    re.S,
)
_BASE = 0xE000
_LIMIT = 6000
_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z\ue000-\uf8ff])")
_ASKS = r"(?:Find|Compute|Determine|Evaluate|Calculate|Simplify|What|How many|How much|How long|Which|In how many)"


def _mask(text: str) -> tuple[str, list[str]]:
    """Put one private-use character for each drawing and each piece of mathematics."""
    parts: list[str] = []

    def keep(match: re.Match[str]) -> str:
        if len(parts) >= _LIMIT:
            return match.group(0)
        parts.append(match.group(0))
        return chr(_BASE + len(parts) - 1)

    return _ATOM.sub(keep, text), parts


def _unmask(text: str, parts: list[str]) -> str:
    """Put the drawings and the mathematics back."""
    return re.sub(
        r"[\ue000-\uf8ff]",
        lambda m: parts[ord(m.group(0)) - _BASE] if ord(m.group(0)) - _BASE < len(parts) else m.group(0),
        text,
    )


def _is_asy(part: str) -> bool:
    """Say whether a kept part is a drawing."""
    return part.startswith(("[asy]", "<asy>"))


def _on_math(parts: list[str], change: Callable[[str], str]) -> list[str]:
    """Change each piece of mathematics and leave the drawings."""
    return [part if _is_asy(part) else change(part) for part in parts]


def _inner(part: str) -> str:
    """Take the delimiters off a piece of mathematics."""
    for left, right in (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$")):
        if part.startswith(left) and part.endswith(right) and len(part) > len(left) + len(right):
            return part[len(left) : -len(right)]
    return part


def _sentences(masked: str) -> list[str]:
    """Split masked text into sentences, also after a displayed formula that a question follows."""
    rough = _SENTENCE.split(masked.strip())
    return [piece for part in rough for piece in re.split(rf"(?<=[\ue000-\uf8ff])\s+(?={_ASKS}\b)", part) if piece]


def _lower_first(sentence: str) -> str:
    """Make the first letter small where the first word is an ordinary word."""
    plain = r"(?:The|A|An|If|Let|Suppose|Find|What|How|Each|Two|Three|Four|There|In|On|For|Given|When|Compute|It|At|"
    plain += r"Determine|Evaluate|Calculate|Simplify|Which|Express|Points?|Consider|Assume|Some|All|This|These|Of)\b"
    return sentence[0].lower() + sentence[1:] if re.match(plain, sentence) else sentence


def _like(model: str, word: str) -> str:
    """Give a word the capital that its model has."""
    return word[0].upper() + word[1:] if model[:1].isupper() else word


def _table(text: str) -> dict[str, str]:
    """Pairs written as `old=new; old=new`."""
    return dict(pair.split("=") for pair in text.split("; "))


def _swap(text: str, table: dict[str, str]) -> str:
    """Replace whole words by a table, keeping capitals."""
    keys = sorted(table, key=len, reverse=True)
    pattern = r"(?<![\w\\])(" + "|".join(re.escape(key) for key in keys) + r")(?!\w)"
    return re.sub(pattern, lambda m: _like(m.group(0), table[m.group(0).lower()]), text, flags=re.I)


def forum_post(text: str, random: random.Random) -> str:
    """Make a forum post: a greeting, chatty spelling, BBCode mathematics and a thanks."""
    masked, parts = _mask(text)
    chat = _table(
        "do not=don't; does not=doesn't; is not=isn't; are not=aren't; cannot=can't; what is=what's; it is=it's; "
        "because=cuz; probability=prob; without=w/o"
    )
    masked = _swap(masked, chat)
    if random.random() < 0.5:
        masked = " ".join(_lower_first(sentence) for sentence in _sentences(masked))
    if random.random() < 0.5:
        parts = _on_math(parts, lambda part: f"[tex]{_inner(part)}[/tex]")
    start = random.choice(
        [
            "Hi everyone, I'm stuck on this one:\n\n",
            "saw this in an old handout\n",
            '[quote="mathlover"]',
            "Can someone help?? ",
            "Here's a nice one from today's practice. ",
            "Bump!! Problem:\n",
        ]
    )
    end = random.choice(
        [
            "\n\nThanks in advance :)",
            " any ideas?",
            "\n\nEDIT: fixed a typo, sorry",
            "\nNo calculators pls!",
            "\n[hide=hint]Try to draw a picture / plug in small cases.[/hide]",
        ]
    )
    if start.startswith("[quote"):
        end = "[/quote]" + end
    return start + _unmask(masked, parts) + end


def other_verbs(text: str, random: random.Random) -> str:
    """Rephrase by rules: other verbs of asking and other common words."""
    masked, parts = _mask(text)
    verbs = ["find", "determine", "compute", "calculate", "work out"]
    table = {verb: random.choice([other for other in verbs if other != verb]) for verb in verbs}
    table |= _table(
        "suppose that=assume that; suppose=assume that; such that=so that; given that=knowing that; there are=we "
        "have; how many=what is the number of; let=we let; consists of=is made up of; chosen at random=randomly "
        "selected; randomly selects=picks at random; contains=has; in terms of=as an expression in; "
        "respectively=in that order; exactly=precisely"
    )
    count = r"\bHow many ([^.?!]*?) (?:are there|exist)\b([^.?!]*)\?"
    masked = re.sub(count, r"Determine the number of \1\2.", masked)
    masked = re.sub(
        r"\bWhat is ((?:the|\S)[^.?!]*)\?", lambda m: f"{table['compute'].capitalize()} {m.group(1)}.", masked
    )
    table.pop("how many")
    return _unmask(_swap(masked, table), parts)


def ocr_scan(text: str, random: random.Random) -> str:
    """Make a scan of a book: ligatures, misread letters, hard line ends with hyphens, a page number."""
    masked, parts = _mask(text)
    misread = [("rn", "m"), ("m", "rn"), ("cl", "d"), ("ii", "u"), ("e", "c"), ("l", "I"), ("h", "b")]
    masked = masked.replace("ffi", "\ufb03").replace("fi", "\ufb01").replace("fl", "\ufb02")
    words = masked.split(" ")
    for index, word in enumerate(words):
        if word.isalpha() and len(word) > 4 and random.random() < 0.2:
            good, bad = random.choice(misread)
            words[index] = word[0] + word[1:].replace(good, bad, 1)
    width, column, lines = random.randint(38, 60), 0, ""
    for word in words:
        length = sum(12 if "\ue000" <= char <= "\uf8ff" else 1 for char in word)
        if column + length > width:
            if word.isalpha() and len(word) > 7 and random.random() < 0.6:
                cut = random.randint(3, len(word) - 3)
                lines, column = lines + word[:cut] + "-\n" + word[cut:] + " ", len(word) - cut
                continue
            lines, column = lines.rstrip(" ") + "\n", 0
        lines, column = lines + word + " ", column + length + 1
    parts = _on_math(parts, lambda part: part.replace(" ", "") if "\\" not in part else part)
    foot = random.choice(["", f"\n\n- {random.randint(11, 380)} -", "\n\nCopyright (c) reserved."])
    return _unmask(lines.rstrip(" "), parts) + foot


def html_scrape(text: str, random: random.Random) -> str:
    """Make a scraped web page: tags, entities, mathematics as image texts or escaped."""
    masked, parts = _mask(text)

    def escape(string: str) -> str:
        return string.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    image = random.random() < 0.4

    def math(part: str) -> str:
        code = escape(part)
        if image and not part.startswith("\\begin"):
            quoted = code.replace('"', "&quot;")
            return f'<img class="latex" src="/tex/{random.getrandbits(32):08x}.png" alt="{quoted}"/>'
        return code

    masked = escape(masked).replace("'", "&#39;").replace('"', "&quot;")
    masked = re.sub(r"\n\s*\n", "</p>\n<p>", masked).replace("\n", "<br />\n")
    masked = re.sub(r" (?=[\ue000-\uf8ff])", lambda m: random.choice([" ", "&nbsp;"]), masked)
    head = random.choice(["", "<h3>Problem</h3>\n", '<span class="mw-headline" id="Problem">Problem</span>\n'])
    foot = random.choice(["", '\n<p><a href="#solution">Solution</a></p>', "\n<!-- end problem -->"])
    return f"{head}<p>{_unmask(masked, _on_math(parts, math))}</p>{foot}"


def plain_unicode(text: str, random: random.Random) -> str:
    """Flatten the LaTeX to plain text with Unicode signs, as a copy from a rendered page does."""
    masked, parts = _mask(text)
    signs = _table(
        "leq=≤; le=≤; geq=≥; ge=≥; neq=≠; ne=≠; cdot=·; times=×; pi=π; angle=∠; triangle=△; circ=°; ldots=...; "
        "cdots=...; dots=...; infty=∞; theta=θ; alpha=α; beta=β; sum=∑; in=∈; pm=±; lfloor=⌊; rfloor=⌋; div=÷; "
        "to=→; perp=⊥; equiv=≡; cup=∪; cap=∩"
    ) | {"quad": " ", "qquad": " "}
    powers = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹") if random.random() < 0.6 else None

    def flat(part: str) -> str:
        code = _inner(part).replace("{,}", ",")
        if "\\begin" in code or "&" in code:
            return part
        code = re.sub(r"\\(?:left|right|bigg?|Bigg?|displaystyle|limits)(?![a-zA-Z])", "", code)
        code = re.sub(r"\^\{?\\circ\}?", "°", code)
        for _ in range(4):
            code = re.sub(r"\\[dt]?frac\s*(\d)\s*(\d)", r"\1/\2", code)
            code = re.sub(r"\\[dt]?frac\s*\{(\w+)\}\s*\{(\w+)\}", r"\1/\2", code)
            code = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"(\1)/(\2)", code)
            code = re.sub(r"\\sqrt\s*\{(\w+)\}", r"√\1", code)
            code = re.sub(r"\\sqrt\s*\{([^{}]*)\}", r"√(\1)", code)
            code = re.sub(r"\\(?:text|mathrm|mbox|textbf|mathbf|overline|textit)\s*\{([^{}]*)\}", r"\1", code)
        if powers:
            code = re.sub(r"\^(?:\{(\d+)\}|(\d))", lambda m: (m.group(1) or m.group(2)).translate(powers), code)
        code = re.sub(r"\^\{([^{}]*)\}", r"^(\1)", code)
        code = re.sub(r"_\{([^{}]*)\}", r"_\1", code)
        code = re.sub(r"\\([a-zA-Z]+) ?", lambda m: signs.get(m.group(1), m.group(1) + " "), code)
        return re.sub(r"\\[,;:!]", "", code).replace("\\{", "{").replace("\\}", "}").replace("\\$", "$").strip()

    return _unmask(masked.replace("\\$", "$").replace("\\%", "%"), _on_math(parts, flat))


def latex_house_style(text: str, random: random.Random) -> str:
    """Write the same mathematics in another house style of LaTeX."""
    masked, parts = _mask(text)
    inline = random.choice([("\\(", "\\)"), ("$", "$"), ("$ ", " $")])
    display = random.choice([("$$", "$$"), ("\\begin{equation*}\n", "\n\\end{equation*}"), ("$\\displaystyle ", "$")])
    spaced = random.random() < 0.5

    def restyle(part: str) -> str:
        if part.startswith("\\begin"):
            return part
        shown, code = part.startswith(("\\[", "$$")), _inner(part).strip()
        code = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", code)
        code = re.sub(r"\\frac(?![a-zA-Z])", r"\\dfrac", code) if not shown else code.replace("\\dfrac", "\\frac")
        code = re.sub(
            r"\\([lgn])eq?(?![a-zA-Z])", lambda m: "\\" + m.group(1) + ("e" if m.group(0)[-1] == "q" else "eq"), code
        )
        code = re.sub(r"\\(?:left|right)(?=[()\[\]|])", "", code)
        code = re.sub(r"\\(text|mbox)(?=\{)", r"\\mathrm", code)
        code = re.sub(r"\\[cl]?dots(?![a-zA-Z])", r"\\dots", code)
        code = re.sub(r"([\^_])(\w)", r"\1{\2}", code)
        if spaced and not re.search(r"\\(?:mathrm|text)", code):
            code = re.sub(r"(?<=[\w)}])\s*([+=<>])\s*(?=[\w(\\])", r" \1 ", code)
        left, right = display if shown and "&" not in code and "\\\\" not in code else inline
        if shown and left == inline[0]:
            left, right = "$$", "$$"
        return left + code + right

    return _unmask(masked, _on_math(parts, restyle))


def question_first(text: str, random: random.Random) -> str:
    """Put the question first and join the given facts behind it."""
    masked, parts = _mask(text)
    drawings = [chr(_BASE + index) for index, part in enumerate(parts) if _is_asy(part)]
    body = masked
    for sign in drawings:
        body = body.replace(sign, " ")
    sentences = _sentences(re.sub(r"\s+", " ", body))
    asked = next((i for i in range(len(sentences) - 1, 0, -1) if re.match(_ASKS + r"\b", sentences[i])), None)
    if asked is None:
        return text
    question = sentences.pop(asked)
    facts, tail = sentences[:asked], sentences[asked:]
    if random.random() < 0.5:
        joined = random.choice(["; ", ", and "]).join(_lower_first(fact.rstrip(".")) for fact in facts) + "."
        lead = random.choice(["Here,", "It is known that the following holds:", "We are given this:", "Setting:"])
        result = f"{question} {lead} {joined}"
    else:
        result = f"{question} ({' '.join(facts)})"
    result = " ".join([result, *tail])
    return _unmask("\n\n".join([result, *drawings]), parts)


def translated(text: str, random: random.Random) -> str:
    """Leave traces of machine translation: full-width or French punctuation, lost articles, stiff phrases."""
    masked, parts = _mask(text)
    stiff = _table(
        "find=try to find; what is=how much is; such that=which satisfies that; let=set; if=if it is known that; "
        "given=known; integer=whole number; integers=whole numbers; side length=length of side; has=possesses; "
        "right triangle=right-angled triangle"
    )
    some = {key: value for key, value in stiff.items() if random.random() < 0.5}
    masked = _swap(masked, some) if some else masked
    masked = re.sub(r"(?<=[a-z,] )(?:the|an?) (?=[a-z])", lambda m: "" if random.random() < 0.4 else m.group(0), masked)
    if random.random() < 0.6:
        masked = re.sub(r"(?<!\d)([,;:?!]) ?", lambda m: chr(ord(m.group(1)) + 0xFEE0), masked)
        masked = re.sub(r"(?<![\d.])\.(?: |$)", "。", masked)
        masked = re.sub(r" ?(?=[\ue000-\uf8ff])|(?<=[\ue000-\uf8ff]) ", "", masked)
    else:
        masked = re.sub(r"(?<=\S)([?!;:])(?=\s|$)", "\u00a0\\1", masked)
        masked = re.sub(r'"([^"]*)"', "«\u00a0\\1\u00a0»", masked)
    return _unmask(masked, parts)


def localised(text: str, random: random.Random) -> str:
    """Spell units, small numbers, money and names otherwise, with British spelling."""
    masked, parts = _mask(text)
    units = _table(
        "cm=centimetres; mm=millimetres; km=kilometres; kg=kilograms; mph=miles per hour; ft=feet; hr=hours; "
        "min=minutes; sec=seconds; in.=inches"
    )
    british = _table(
        "center=centre; color=colour; colors=colours; colored=coloured; meters=metres; neighbor=neighbour; "
        "neighbors=neighbours; percent=per cent; math=maths; gray=grey"
    )
    words = "two three four five six seven eight nine ten eleven twelve".split()
    names = "Alice Bob John Mary Tom Sarah James Emily Joe Jane Mike Anna Dave Kate".split()
    women = {"Alice", "Mary", "Sarah", "Emily", "Jane", "Anna", "Kate"}
    table = british | {unit: name for unit, name in units.items() if unit not in ("min", "in.")}
    if random.random() < 0.6:
        table |= {word: str(number) for number, word in enumerate(words, 2)}
    masked = _swap(masked, table)
    used = [name for name in names if re.search(rf"\b{name}\b", masked)]
    free = {
        True: ["Priya", "Olga", "Mei", "Fatima", "Ingrid", "Lucia", "Chloe"],
        False: ["Ravi", "Ivan", "Wei", "Omar", "Lars", "Diego", "Nigel"],
    }
    for pool in free.values():
        pool[:] = [name for name in pool if name not in masked]
        random.shuffle(pool)
    for name in used:
        pool = free[name in women]
        if pool:
            masked = re.sub(rf"\b{name}\b", pool.pop(), masked)
    masked = re.sub(r"\\\$(\d+(?:\.\d+)?)(?![\d,])", r"\1 dollars", masked)
    masked = re.sub(r"(?<=\d)\\?%", " per cent", masked)

    def math(part: str) -> str:
        degrees = re.fullmatch(r"\$(\d+(?:\.\d+)?)\s*\^\s*\{?\\circ\}?\$", part)
        if degrees:
            return f"${degrees.group(1)}$ degrees"
        money = re.fullmatch(r"\$\\\$\s*(\d+(?:\.\d+)?)\$", part)
        if money:
            return f"${money.group(1)}$ dollars"
        unit = r"(\\(?:text|mathrm|mbox)\{\s*)([a-z]+\.?)(\s*\})"
        return re.sub(unit, lambda m: m.group(1) + units.get(m.group(2), m.group(2)) + m.group(3), part)

    return _unmask(masked, _on_math(parts, math))


def prompt_record(text: str, random: random.Random) -> str:
    """Wrap the problem as a training record: contest header, template, Markdown, code block or JSON, a hint."""
    source = random.choice(
        ["AMC 12", "AIME II", "HMMT February", "Mathcounts State Sprint", "BMO Round 1", "SMT Algebra"]
    )
    header = f"{source} {random.randint(1985, 2022)}, Problem {random.randint(1, 25)}"
    hint = random.choice(["", "\n\nHint: look for symmetry.", "\n\n*Author's note: this one is harder than it looks.*"])
    kind = random.randrange(5)
    if kind == 0:
        return f"### Instruction:\n{text}{hint}\n\nPut your final answer within \\boxed{{}}.\n\n### Response:\n"
    if kind == 1:
        quoted = "\n".join("> " + line if line else ">" for line in text.split("\n")) if "[asy]" not in text else text
        return f"## {header}\n\n{quoted}{hint}\n\n---\n**Answer:** ____"
    if kind == 2:
        return f"```latex\n% {header}\n\\begin{{problem}}\n{text}\n\\end{{problem}}\n```"
    if kind == 3:
        pieces = re.split(r"(\[asy\].*?\[/asy\])", text, flags=re.S)
        escaped = (
            p if p.startswith("[asy]") else p.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            for p in pieces
        )
        key = random.randint(100, 99999)
        return f'{{"id": {key}, "source": "{header}", "problem": "{"".join(escaped)}", "level": 4}}'
    return f"**{random.randint(1, 30)}.** [{random.randint(2, 10)} pts] ({header}) {text}{hint}\nJustify your answer."


def other_number(text: str, random: random.Random) -> str:
    """Make a different problem: change one number that is not an index."""
    masked, parts = _mask(text)
    number = re.compile(r"(?<![\w.])(?<!_\{)(?:[2-9]|[1-9]\d+)(?![\d])")
    places: list[tuple[int, re.Match[str]]] = [(-1, match) for match in number.finditer(masked)]
    for index, part in enumerate(parts):
        if not _is_asy(part):
            places += [(index, match) for match in number.finditer(part)]
    if not places:
        words = re.compile(r"\b(two|three|four|five|six|seven|eight|nine|ten|twelve)\b", re.I)
        found = list(words.finditer(masked))
        if not found:
            return text
        match = random.choice(found)
        new = random.choice(
            [word for word in ("three", "four", "five", "six", "seven") if word != match.group(0).lower()]
        )
        return _unmask(masked[: match.start()] + _like(match.group(0), new) + masked[match.end() :], parts)
    index, match = random.choice(places)
    old = match.group(0)
    last = random.choice([digit for digit in "23456789" if digit != old[-1]])
    home = masked if index < 0 else parts[index]
    changed = home[: match.start()] + old[:-1] + last + home[match.end() :]
    if index < 0:
        masked = changed
    else:
        parts[index] = changed
    return _unmask(masked, parts)


def opposite_word(text: str, random: random.Random) -> str:
    """Make a different problem: turn one word into its opposite, or put in or take out a 'not'."""
    masked, parts = _mask(text)
    pairs = _table(
        "even=odd; minimum=maximum; smallest=largest; at least=at most; least=greatest; without replacement=with "
        "replacement; increasing=decreasing; shortest=longest; more than=fewer than; less than=greater than; "
        "lowest=highest; inside=outside; is divisible=is not divisible; are divisible=are not divisible; "
        "distinct=not necessarily distinct; is a multiple=is not a multiple; is prime=is not prime; are "
        "adjacent=are not adjacent; contain=do not contain; is an integer=is not an integer; minimize=maximize; "
        "first digit=last digit; is a factor=is not a factor; is=is not"
    ).items()
    spots: list[tuple[int, int, str]] = []
    for one, two in pairs:
        for old, new in ((one, two), (two, one)) if one != "is" else ((two, one),):
            for match in re.finditer(rf"(?<!\bat )\b{old}\b(?! common| not\b)", masked, re.I):
                spots.append((match.start(), match.end(), _like(match.group(0), new)))
    if not spots:
        return text
    start = random.choice(sorted({spot[0] for spot in spots}))
    here = max((spot for spot in spots if spot[0] == start), key=lambda spot: spot[1])
    return _unmask(masked[:start] + here[2] + masked[here[1] :], parts)


def other_quantity(text: str, random: random.Random) -> str:
    """Make a different problem: ask for another quantity in the question."""
    masked, parts = _mask(text)
    table = _table(
        "area=perimeter; perimeter=area; radius=diameter; diameter=radius; sum=product; product=sum; "
        "volume=surface area; surface area=volume; circumference=area; mean=median; median=mean; average=range; "
        "greatest common divisor=least common multiple; width=length; least common multiple=greatest common "
        "divisor; quotient=remainder; remainder=quotient; numerator=denominator; units digit=tens digit; tens "
        "digit=units digit; sine=cosine"
    )
    asks = list(re.finditer(rf"\b{_ASKS}\b", masked, re.I))
    if not asks:
        return text
    start = asks[-1].start()
    end = re.search(r"[.?!](?=\s|$)", masked[start:])
    stop = start + end.start() if end else len(masked)
    question = masked[start:stop]
    keys = "|".join(sorted(table, key=len, reverse=True))
    match = re.search(rf"\b(?:{keys})\b", question, re.I)
    if match:
        new = _like(match.group(0), table[match.group(0).lower()])
        question = question[: match.start()] + new + question[match.end() :]
        return _unmask(masked[:start] + question + masked[stop:], parts)
    verb = r"(?:find|compute|determine|evaluate|calculate|simplify|what is)(?: the value of)?:?\s+([\ue000-\uf8ff])"
    match = re.match(verb, question, re.I)
    index = ord(match.group(1)) - _BASE if match else len(parts)
    if index < len(parts) and parts[index].startswith("$") and not parts[index].startswith("$$"):
        code = _inner(parts[index]).strip()
        if not re.search(r"[=<>,]|\\(?:text|le|ge|circ|ldots)", code):
            parts[index] = f"${code}{random.choice([' + 1', ' - 1', ' + 2'])}$"
            return _unmask(masked, parts)
    others = (("How many", "What is the sum of all"), ("probability that", "probability that it is not true that"))
    for old, new in others:
        fits = old != "How many" or re.search(r"integers|numbers|solutions|values|divisors", question)
        if old in question and fits:
            return _unmask(masked[:start] + question.replace(old, new, 1) + masked[stop:], parts)
    return text


STRANGERS: dict[str, Disguise] = {
    "forum post": forum_post,
    "other verbs": other_verbs,
    "ocr scan": ocr_scan,
    "html scrape": html_scrape,
    "plain unicode": plain_unicode,
    "latex style": latex_house_style,
    "question first": question_first,
    "translated": translated,
    "localised": localised,
    "prompt record": prompt_record,
}

OTHER: dict[str, Disguise] = {
    "other number": other_number,
    "opposite word": opposite_word,
    "other quantity": other_quantity,
}
