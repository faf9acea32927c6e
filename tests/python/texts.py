"""The sentences that the golden files are made from: our own writing, chosen for what they ask of a tokenizer and an encoder."""

# The tiny model's whole words; below them it falls back to single letters, so that every ASCII text has tokens.
TINY_WORDS = """
red blue green black white small large steel wood glass cotton garden kitchen kettle teapot lamp chair table rug
shelf drill hammer hose pump pipe tap door light bulb led fan heater mirror paint brush ladder bolt screw nail
saw tile brick grill oven sink cup plate bowl knife board box bag tent rope with and for the of in set pack pair
litre cm inch volt watt outdoor indoor folding cordless electric wall floor ceiling
""".split()
TINY_SUFFIXES = "s es ed ing er less ly".split()

# (query, product title, label). One query comes twice and one title is also a query: equal texts of a batch may be encoded once.
# The fourth title is longer than the tiny model's maximum of 48 tokens; labels are 0, 1 and between.
TINY_PAIRS = [
    ("red kettle", "Red electric kettle, 2 litre, steel", 1.0),
    ("red kettle", "Black teapot with glass lid", 0.0),
    ("garden hose", "Outdoor hose 25 m and wall box", 1.0),
    ("cordless drill", "Cordless 18-volt drill set with 2 packs, 64 bits, a charger, a belt clip, a torch and a bag for all of it", 1.0),
    ("led bulb e27", "led bulb", 0.7),
    ("folding chair", "Blue cotton rug 80 cm", 0.0),
    ("led bulb", "Ceiling fan with light", 0.25),
    ("", "Steel sink", 0.0),
]

# Windows of whole words are cut from this text, one for each number of tokens up to the maximum of 70.
LONG_TEXT = """
The shop on the corner sells cordless drills, copper pipe by the metre, galvanised screws in boxes of two hundred, and a
surprising number of kettles. Mrs Okonkwo, who has run it since 1987, keeps the stainless-steel ones (1.7 l, 2200 W) beside the
till because nobody asks for them until winter. Ask for a 3/4-inch brass compression elbow and she'll find it in eleven seconds;
ask for "something to hang a mirror" and you will leave with wall plugs, a masonry bit, picture wire, and advice. Her nephew
photographs everything twice: once for the catalogue and once, he says, for the truth. Returns are accepted within 30 days if
the packaging is unopened, the receipt is legible, and the customer is polite. Weatherproof extension leads hang by the door,
unlabelled; the antifreeze lives upstairs. On Saturdays a queue forms for re-keyed locks, sharpened mower blades, and the
second-hand dehumidifier that always comes back.
"""

ODD_TEXTS = {
    "empty": "",
    "only white space": " \t\n ",
    "one letter": "a",
    "accents, composed": "Crème brûlée torch für Köche, señor",
    "accents, combining marks": "Cre\u0300me bru\u0302le\u0301e torch fu\u0308r Ko\u0308che, sen\u0303or",
    "stacked combining marks": "z\u0300\u0301\u0302\u0303 drill",
    "Chinese": "不锈钢电热水壶 1.7 升",
    "Japanese, mixed scripts": "電気ケトル ステンレス 1.2L ブラック",
    "Korean": "스테인리스 전기 주전자",
    "emoji": "best 🔥 BBQ grill 🍖👍🏽 ever",
    "emoji joined by zero-width joiners": "👩‍🔧 toolbox",
    "right to left": "غلاية كهربائية حمراء",
    "Hebrew with vowel points": "קוּמְקוּם חַשְׁמַלִּי",
    "Greek and Cyrillic": "Ηλεκτρικό τρυπάνι / аккумуляторная дрель",
    "Turkish dotted capital": "İSTANBUL IŞIK lamba",
    "German sharp s": "Straßenbesen GROẞ",
    "ligatures and full-width letters": "ﬁne ﬂoor tile ＡＢＣ １２３",
    "fractions and signs": "¾ in. × 2½ ft ± 5 °C, ≤ 40 € – “new” … № 7",
    "control characters": "red\u0000 ket\u0007tle\u200b \ufeffset\u00ad",
    "no-break and ideographic spaces": "2\u00a0litre\u3000kettle\u2009steel",
    "no spaces": "supercalifragilisticcordlessdrilldriverwithtwobatteries",
    "a word beyond the 100 letters of WordPiece": "kettle " + "ab" * 60 + " kettle",
    "punctuation": "!?;:,.-_()[]{}<>@#$%^&*+=|\\/~`'\"",
    "special tokens spelled out": "[CLS] red [SEP] kettle [MASK] [PAD] [UNK]",
    "capitals": "RED KETTLE",
    "part number": "AX-4410/B2 rev.3 (M8x1.25)",
    "unassigned and private-use": "lamp \ue000 \U000f0000 \u0378 shade",
    "mathematical letters": "𝓒ordless 𝕯rill 𝟙𝟚 V",
}

OVER_LONG_TEXTS = {
    "over-long, words": " ".join(LONG_TEXT.split()),
    "over-long, one word of many pieces": "un" + "screwdriver" * 8 + " " + "teapot" * 14 + " lamp " * 40,
    "over-long, Chinese": "红色电热水壶家用不锈钢自动断电" * 8,
    "over-long, a few tokens too many": " ".join(["kettle"] * 72),
}

# (query, product title, label) for the gradients of all-MiniLM-L6-v2.
MINILM_PAIRS = [
    ("cordless drill 18v", "18-volt cordless combi drill with two batteries, charger and case", 1.0),
    ("cordless drill 18v", "Replacement charger for 18-volt drill batteries", 0.0),
    ("whistling kettle", "Stovetop kettle, whistling, brushed steel, 2.5 litres", 1.0),
    ("outdoor string lights", "LED fairy lights for indoor use, 10 m, warm white", 0.4),
    ("blackout curtains grey 66x54", "Grey blackout curtains, 66 x 54 in., eyelet heading, pair", 1.0),
    ("raised garden bed", "Copper pipe, 15 mm x 3 m", 0.0),
    ("toilet seat soft close", "Soft-close toilet seat, white, top-fixing hinges, quick release", 1.0),
    ("AA batteries", "Battery-operated wall clock, 30 cm, needs one AA cell (not included)", 0.0),
]
