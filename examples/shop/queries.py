"""What shoppers ask for: words their queries, judges products against them, groups queries that are alike."""

import re
from dataclasses import dataclass
from random import Random

from lexicon import MISSPELLINGS, NUMBER_WORDS, UNCOUNTED
from measures import word_overlap
from shelves import MEASURES, Kind, Product, Shop

SECOND_INTENT = 0.7
SECOND_WORDING = 0.2
SMALL_WORDS = set("a an the for with in to of my and on i need best cheap good looking buy new".split())


@dataclass(frozen=True)
class Wish:
    """One value that the shopper insists on: the axis, the value's name and the words used."""

    axis: str
    value: str
    text: str


@dataclass(frozen=True)
class Query:
    """A query and what it means: any product of these kinds that fulfils all wishes."""

    text: str
    kinds: tuple[str, ...]
    category: str
    noun: str = ""
    wishes: tuple[Wish, ...] = ()

    def intent(self) -> tuple:
        """What paraphrases share."""
        return self.kinds, bool(self.noun), tuple(sorted((wish.axis, wish.value) for wish in self.wishes))


def judge(query: Query, product: Product, kinds: dict[str, Kind]) -> bool | None:
    """Whether the product is what the query asks for; None where the title leaves it open or people would disagree."""
    if product.kind.name not in query.kinds:
        doubtful = any(product.kind.name in kinds[name].unsure for name in query.kinds)
        return None if doubtful or query.noun in product.kind.asked else False
    verdict: bool | None = True
    for wish in query.wishes:
        said = product.states.get(wish.axis)
        if said is None:
            verdict = None
        elif said.name != wish.value and wish.text not in said.asked:
            return False
    return verdict


def write_queries(shop: Shop, products: list[Product], seed: str) -> list[Query]:
    """All queries: one or two intents for every kind, with up to two wishes each, and the needs that name no product."""
    stocked: dict[str, list[Product]] = {}
    for product in products:
        stocked.setdefault(product.kind.name, []).append(product)
    queries: dict[str, Query] = {}
    for kind in shop.kinds.values():
        rng = Random(f"{seed} queries {kind.name}")
        intents: set[tuple] = set()
        wanted = 1 + (rng.random() < SECOND_INTENT)
        for _ in range(wanted * 4):
            if len(intents) == wanted:
                break
            model = rng.choice(stocked[kind.name])
            axes = sorted(model.states)
            axes = rng.sample(axes, min(len(axes), rng.choice((0, 1, 1, 1, 2))))
            query = word_query(rng, kind, model, axes)
            if query.intent() in intents:
                continue
            intents.add(query.intent())
            queries.setdefault(query.text, query)
            if rng.random() < SECOND_WORDING:
                query = word_query(rng, kind, model, axes)
                queries.setdefault(query.text, query)
    rng = Random(f"{seed} needs")
    for kinds, phrase in shop.needs:
        query = Query(misspell(rng, phrase), kinds, shop.kinds[kinds[0]].category)
        queries.setdefault(query.text, query)
    return list(queries.values())


def word_query(rng: Random, kind: Kind, model: Product, axes: list[str]) -> Query:
    """A query for `kind` with the model's values on `axes`, in a shopper's words."""
    wishes = tuple(Wish(axis, model.states[axis].name, rng.choice(model.states[axis].asked)) for axis in axes)
    noun = rng.choice(kind.asked) if rng.random() < 0.8 else rng.choice(kind.sold).lower()
    named = plural(noun) if rng.random() < 0.2 else noun
    before, after = [], []
    for wish in rng.sample(wishes, len(wishes)):
        trails = wish.text.split()[0] in {"for", "with", "no", "that", "non", "in", "pack", "set"}
        late = trails or rng.random() < (0.4 if wish.axis in MEASURES else 0.2)
        text = f"in {wish.text}" if wish.axis == "colour" and late and rng.random() < 0.6 else wish.text
        (after if late else before).append(text)
    text = " ".join((*before, named, *after))
    chance = rng.random()
    if chance < 0.08:
        text = f"{rng.choice(('best', 'cheap', 'good', 'looking for', 'i need a', 'buy', 'new'))} {text}"
    elif chance < 0.11:
        text = f"{text} {rng.choice(('for sale', 'deals', 'online', 'for home'))}"
    if rng.random() < 0.1:
        text = re.sub(r"(?<![\d./-])\b\d+\b(?![./-]| ?x)", lambda number: NUMBER_WORDS.get(number[0], number[0]), text)
    return Query(misspell(rng, text), (kind.name,), kind.category, noun, wishes)


def plural(noun: str) -> str:
    """More of it, where that is said."""
    head, link, tail = noun.partition(" for ")
    if " with " in head or " to " in head or head.endswith("s") or head.split()[-1] in UNCOUNTED:
        return noun
    if head.endswith(("ch", "sh", "x", "z")):
        head += "es"
    elif head.endswith("y") and head[-2] not in "aeiou":
        head = f"{head[:-1]}ies"
    elif head.endswith("shelf"):
        head = f"{head[:-1]}ves"
    else:
        head += "s"
    return f"{head}{link}{tail}"


def misspell(rng: Random, text: str) -> str:
    """The slips of hurried fingers: known misspellings, a letter lost, two letters swapped."""
    chance = rng.random()
    if chance < 0.12:
        for word in text.split():
            if word in MISSPELLINGS:
                return text.replace(word, rng.choice(MISSPELLINGS[word].split(", ")), 1)
    long = [word for word in text.split() if len(word) > 5 and word.isalpha()]
    if chance < 0.05 and long:
        word = rng.choice(long)
        at = 1 + rng.randrange(len(word) - 3)
        slip = word[:at] + word[at + 1 :] if rng.random() < 0.5 else word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        return text.replace(word, slip, 1)
    return text


def pick_rows(rng: Random, shop: Shop, query: Query, shelves: dict[str, list[Product]], held_out: str) -> list[tuple[Product, bool]]:
    """A few right products and about as many wrong ones, most of them tempting.

    A wrong product is of the right kind but fails a wish; or an accessory, or the thing that the accessory belongs to; or of a kind
    that is easily mistaken; or, now and then, anything at all.
    """
    judged = [name for name in shop.kinds if may_judge(shop, query, name, held_out)]
    verdicts = {name: [(p, judge(query, p, shop.kinds)) for p in shelves[name]] for name in judged}
    right = [p for name in query.kinds for p, verdict in verdicts[name] if verdict]
    failing = [p for name in query.kinds for p, verdict in verdicts[name] if verdict is False]
    mistaken = wrong_of(related(shop, query.kinds), verdicts)
    near = wrong_of([name for kind in query.kinds for name in shop.kinds[kind].near], verdicts)
    beside = wrong_of([kind.name for kind in shop.kinds.values() if kind.category == query.category], verdicts)
    anything = wrong_of(list(verdicts), verdicts)
    rows = [(p, True) for p in rng.sample(right, min(len(right), rng.choice((1, 2, 3, 3))))]
    wanted = len(rows) + rng.choice((0, 0, 1, 1)) if rows else 2
    pools = [failing] * 6 + [mistaken] * 3 + [near] * 3 + [beside] * 2 + [anything] * 7
    taken: set[int] = set()
    for _ in range(wanted * 6):
        if len(taken) == wanted:
            break
        pool = [p for p in rng.choice(pools) if p.id not in taken]
        if pool:
            product = tempting(rng, query, pool)
            taken.add(product.id)
            rows.append((product, False))
    return rows


def may_judge(shop: Shop, query: Query, name: str, held_out: str) -> bool:
    """The category left out of training is met only by its own queries."""
    return query.category == held_out or shop.kinds[name].category != held_out


def related(shop: Shop, names: tuple[str, ...]) -> list[str]:
    """The accessories of these kinds; of an accessory, what it belongs to and its sisters."""
    found = []
    for name in names:
        host = shop.kinds[name].part_of
        found += shop.parts_of(name)
        found += [host, *shop.parts_of(host)] if host else []
    return [name for name in dict.fromkeys(found) if name not in names]


def wrong_of(names: list[str], verdicts: dict[str, list[tuple[Product, bool | None]]]) -> list[Product]:
    return [p for name in dict.fromkeys(names) for p, verdict in verdicts.get(name, ()) if verdict is False]


def tempting(rng: Random, query: Query, pool: list[Product]) -> Product:
    """Of two products the one that a search by words would find first."""
    drawn = rng.sample(pool, min(2, len(pool)))
    return max(drawn, key=lambda p: word_overlap(query.text, p.title))


def content(text: str) -> frozenset[str]:
    """The words of a query without endings and small words, for likeness."""
    return frozenset(word.rstrip("s") for word in re.findall(r"[a-z0-9.]+", text.lower()) if word not in SMALL_WORDS)


def group(queries: list[Query], likeness: float = 0.65) -> list[list[Query]]:
    """Queries of one intent, or with most words in common, in one group; and whatever follows from that."""
    parent = list(range(len(queries)))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    bags = [content(query.text) for query in queries]
    first: dict[tuple, int] = {}
    for at, query in enumerate(queries):
        parent[root(at)] = root(first.setdefault(query.intent(), at))
        for other in range(at):
            common = len(bags[at] & bags[other])
            if common and common >= likeness * len(bags[at] | bags[other]):
                parent[root(at)] = root(other)
    groups: dict[int, list[Query]] = {}
    for at, query in enumerate(queries):
        groups.setdefault(root(at), []).append(query)
    return list(groups.values())
