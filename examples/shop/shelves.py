"""What the shop sells: reads `categories/*.toml` and stocks the shelves with products.

A category file names its category, its (invented) brands and its kinds of product, one table a kind:

    sold      how titles name the kind                asked    how shoppers name it
    part_of   the kind that this is an accessory of   near     kinds easily mistaken for it
    unsure    kinds that people would disagree on      extras   features that titles mention and labels ignore
    price     from-to                                 stock    how many of it, where not the usual few

Every other key is an axis of `lexicon.py`, with the values that are sold; `variant` is an axis of the kind's own. The table `needs`
gives, for one or several kinds, what people ask who do not name the thing at all.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from lexicon import ABBREVIATIONS, AXES, GENERIC_EXTRAS, PAIRS, UNITS, Value, split

CATEGORIES = Path(__file__).parent / "categories"
USUAL_STOCK = 5
MEASURES = UNITS.keys() | PAIRS.keys()
SUFFIXES = {"pack"}
PLAIN_KEYS = {"sold", "asked", "part_of", "near", "unsure", "extras", "price", "stock"}


@dataclass(frozen=True)
class Kind:
    """A kind of product: all sofas, all lawn mower blades."""

    name: str
    category: str
    sold: tuple[str, ...]
    asked: tuple[str, ...]
    axes: dict[str, tuple[Value, ...]]
    extras: tuple[str, ...]
    part_of: str
    near: tuple[str, ...]
    unsure: tuple[str, ...]
    price: tuple[int, int]
    stock: int


@dataclass
class Product:
    """One thing on the shelf. `states` holds what its title says of each axis; what it leaves out, nobody can judge."""

    kind: Kind
    brand: str
    states: dict[str, Value]
    title: str
    price: str
    id: int = 0


@dataclass
class Shop:
    """Everything that the category files say."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    brands: dict[str, tuple[str, ...]] = field(default_factory=dict)
    needs: list[tuple[tuple[str, ...], str]] = field(default_factory=list)

    def parts_of(self, name: str) -> list[str]:
        """The kinds that are accessories of `name`."""
        return [kind.name for kind in self.kinds.values() if kind.part_of == name]


def read_shop() -> Shop:
    """All category files, checked: every kind that one mentions exists."""
    shop = Shop()
    for path in sorted(CATEGORIES.glob("*.toml")):
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        category = tables.pop("category")
        shop.brands[category] = split(tables.pop("brands"))
        for kinds, phrases in tables.pop("needs", {}).items():
            shop.needs += [(tuple(kinds.split()), phrase) for phrase in split(phrases, ";")]
        for name, table in tables.items():
            if name in shop.kinds:
                raise SystemExit(f"{path.name}: kind `{name}` is defined twice")
            shop.kinds[name] = read_kind(name, category, table)
    for kind in shop.kinds.values():
        for other in (*kind.near, *kind.unsure, *split(kind.part_of)):
            if other not in shop.kinds:
                raise SystemExit(f"kind `{kind.name}` mentions `{other}`, which no category has")
    for kinds, phrase in shop.needs:
        if missing := [name for name in kinds if name not in shop.kinds]:
            raise SystemExit(f"need `{phrase}` mentions `{missing[0]}`, which no category has")
    return shop


def read_kind(name: str, category: str, table: dict) -> Kind:
    axes = {axis: read_axis(axis, values) for axis, values in table.items() if axis not in PLAIN_KEYS}
    low, high = table["price"].split("-")
    return Kind(
        name=name,
        category=category,
        sold=split(table["sold"]),
        asked=split(table["asked"]),
        axes=axes,
        extras=split(table["extras"]),
        part_of=table.get("part_of", ""),
        near=tuple(table.get("near", "").split()),
        unsure=tuple(table.get("unsure", "").split()),
        price=(int(low), int(high)),
        stock=table.get("stock", USUAL_STOCK),
    )


def read_axis(axis: str, values: str | dict[str, str]) -> tuple[Value, ...]:
    if axis == "variant":
        return tuple(read_value(name, words) for name, words in values.items())
    if axis in AXES:
        return tuple(read_value(name, AXES[axis][name]) for name in values.split())
    if axis in UNITS:
        return tuple(read_value(number, UNITS[axis].replace("{v}", number)) for number in values.split())
    sides = [(pair, *pair.split("x")) for pair in values.split()]
    return tuple(read_value(pair, PAIRS[axis].replace("{a}", a).replace("{b}", b)) for pair, a, b in sides)


def read_value(name: str, words: str) -> Value:
    sold, asked = words.split(" / ")
    return Value(name, split(sold), split(asked))


def stock(shop: Shop, seed: str) -> list[Product]:
    """The products of every kind, numbered in an order that says nothing about them."""
    products, titles = [], set()
    for kind in shop.kinds.values():
        rng = Random(f"{seed} {kind.name}")
        decks: dict[str, list[Value]] = {axis: [] for axis in kind.axes}
        for _ in range(kind.stock):
            states = {axis: draw(rng, decks[axis], values) for axis, values in kind.axes.items()}
            product = make_product(rng, shop, kind, states)
            while product.title in titles:
                product = make_product(rng, shop, kind, states)
            titles.add(product.title)
            products.append(product)
    Random(f"{seed} order").shuffle(products)
    identity = 100_000
    rng = Random(f"{seed} ids")
    for product in products:
        identity += 1 + rng.randrange(60)
        product.id = identity
    return products


def draw(rng: Random, deck: list[Value], values: tuple[Value, ...]) -> Value:
    """The next of a shuffled deck, so that no value stays unsold."""
    if not deck:
        deck += values
        rng.shuffle(deck)
    return deck.pop()


def make_product(rng: Random, shop: Shop, kind: Kind, states: dict[str, Value]) -> Product:
    brand = rng.choice(shop.brands[kind.category])
    told = {axis: value for axis, value in states.items() if rng.random() > 0.06}
    if told.get("pack") and told["pack"].name == "1":
        del told["pack"]
    low, high = kind.price
    price = low + (high - low) * rng.randrange(101) // 100
    return Product(kind, brand, told, write_title(rng, shop, kind, brand, told), f"{price}.{rng.choice(('99', '99', '49', '00'))}")


def write_title(rng: Random, shop: Shop, kind: Kind, brand: str, states: dict[str, Value]) -> str:
    """A title in one of the styles that shops mix."""
    said = {axis: rng.choice(value.sold) for axis, value in states.items()}
    sizes = [text for axis, text in said.items() if axis in MEASURES and axis not in SUFFIXES]
    colour = said.get("colour", "") or said.get("finish", "")
    others = [text for axis, text in said.items() if axis not in MEASURES and text != colour]
    count = [text for axis, text in said.items() if axis in SUFFIXES]
    rng.shuffle(others)
    noun = rng.choice(kind.sold)
    extras = rng.sample(kind.extras, rng.choice((0, 1, 1, 2)))
    if rng.random() < 0.2:
        extras.append(rng.choice(GENERIC_EXTRAS))
    if kind.part_of and rng.random() < 0.25:
        host = shop.kinds[kind.part_of]
        extras.append(f"{rng.choice(('Fits', 'for', 'Compatible with'))} {rng.choice(shop.brands[host.category])}")
    trailing = [text for text in others + extras if text.split()[0] in {"with", "for", "Fits", "Compatible"}]
    others = [text for text in others if text not in trailing]
    leading = [text for text in extras if text not in trailing]
    model = f"{brand[:2].upper()}{rng.choice(('-', '', ' '))}{rng.randrange(10, 990) * 10}{rng.choice(('', '', 'B', 'X', 'S'))}"
    model = model if rng.random() < 0.22 else ""

    style = rng.randrange(100)
    if style < 34:
        text = words(brand, model, *sizes, colour, *others, *leading[:1], noun, *trailing, *count)
        text = ", ".join(filter(None, (text, *leading[1:])))
    elif style < 55:
        details = [*trailing, *leading, *others, colour, *sizes, *count]
        text = ", ".join(filter(None, (words(brand, noun, model), *details)))
    elif style < 70:
        text = words(*sizes, *others, noun, *trailing, *count, "in" if colour else "", colour)
        text = f"{brand} {text}" if rng.random() < 0.6 else f"{text} by {brand}"
        text = ", ".join((text, *leading))
    elif style < 85:
        text = f"{words(brand, *others, noun, model)} - {', '.join(filter(None, (*sizes, colour, *leading, *trailing, *count))) or 'New'}"
    else:
        text = words(brand, *leading, noun, *trailing, *others, *sizes, *count)
        text += f" ({colour})" if colour else ""
    return smudge(rng, text)


def words(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def smudge(rng: Random, title: str) -> str:
    """What hurried listings do: abbreviations, lost commas, capitals."""
    if rng.random() < 0.15:
        for long, short in ABBREVIATIONS.items():
            title = title.replace(long, short)
    chance = rng.random()
    if chance < 0.03:
        return title.upper()
    if chance < 0.06:
        return title.lower()
    if chance < 0.10:
        return title.replace(",", "")
    return title
