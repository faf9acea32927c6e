"""The words the shop shares between its departments: colours, materials, sizes, misspellings.

Every value of an attribute has two lists of words: how product titles say it and how shoppers ask for it. The lists overlap only in
part ("Navy" is sold, "blue" is asked for), because that gap is what a search model has to learn.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """One value of an attribute, in the words of titles (`sold`) and of queries (`asked`)."""

    name: str
    sold: tuple[str, ...]
    asked: tuple[str, ...]


def split(text: str, mark: str = ", ") -> tuple[str, ...]:
    """The non-empty parts of `text` between the marks, without the blanks around them."""
    return tuple(part.strip() for part in text.split(mark) if part.strip())


# axis -> value -> "words in titles / words in queries"
AXES = {
    "colour": {
        "black": "Black, Black, Matte Black, Jet Black, Onyx / black",
        "white": "White, White, Ivory, Snow White, Bright White / white",
        "grey": "Gray, Grey, Charcoal, Slate, Graphite / grey, gray",
        "blue": "Blue, Navy, Cobalt Blue, Denim, Indigo / blue",
        "red": "Red, Red, Crimson, Burgundy, Cherry Red / red",
        "green": "Green, Sage, Forest Green, Olive, Emerald / green",
        "beige": "Beige, Sand, Oatmeal, Cream, Taupe / beige, tan",
        "brown": "Brown, Espresso, Chocolate, Chestnut, Mocha / brown",
        "pink": "Pink, Blush, Rose, Dusty Rose / pink",
        "yellow": "Yellow, Mustard, Lemon, Sunflower / yellow",
        "orange": "Orange, Tangerine, Burnt Orange / orange",
        "purple": "Purple, Lavender, Plum, Violet / purple",
        "silver": "Silver, Brushed Silver, Platinum / silver",
        "gold": "Gold, Champagne Gold, Antique Gold / gold",
        "clear": "Clear, Transparent, Crystal Clear / clear, see through",
        "multi": "Multicolor, Multi-Color, Assorted Colors, Rainbow / multicolor, colorful, assorted colors",
    },
    "finish": {
        "chrome": "Chrome, Polished Chrome / chrome",
        "nickel": "Brushed Nickel, Satin Nickel, Spot-Resist Nickel / brushed nickel, nickel, satin nickel",
        "bronze": "Oil-Rubbed Bronze, Venetian Bronze, Dark Bronze / oil rubbed bronze, bronze",
        "black": "Matte Black, Flat Black, Black / black, matte black",
        "brass": "Brass, Antique Brass, Polished Brass, Brushed Gold / brass, gold",
        "steel": "Stainless Steel, Stainless / stainless steel, stainless",
    },
    "material": {
        "wood": "Wood, Solid Oak, Walnut, Acacia Wood, Pine, Wooden / wood, wooden, solid wood",
        "metal": "Metal, Steel, Powder-Coated Steel, Iron / metal, steel",
        "plastic": "Plastic, Resin, Polypropylene / plastic",
        "leather": "Leather, Genuine Leather, Top-Grain Leather / leather, real leather",
        "fauxleather": "Faux Leather, PU Leather, Vegan Leather / faux leather, fake leather, pleather",
        "fabric": "Fabric, Upholstered, Linen-Blend, Chenille, Tweed / fabric, cloth",
        "velvet": "Velvet, Crushed Velvet / velvet",
        "wicker": "Wicker, Rattan, PE Rattan, All-Weather Wicker / wicker, rattan",
        "glass": "Glass, Tempered Glass, Borosilicate Glass / glass",
        "ceramic": "Ceramic, Stoneware, Porcelain / ceramic, stoneware",
        "stainless": "Stainless Steel, Stainless, 18/10 Stainless / stainless steel, steel, metal",
        "iron": "Cast Iron, Pre-Seasoned Cast Iron / cast iron",
        "nonstick": "Nonstick, Non-Stick Aluminum, Granite-Coated / non stick, nonstick",
        "copper": "Copper, Hammered Copper / copper",
        "bamboo": "Bamboo, Organic Bamboo / bamboo",
        "cotton": "Cotton, 100% Cotton, Egyptian Cotton, Combed Cotton / cotton",
        "linen": "Linen, French Linen, Flax Linen / linen",
        "polyester": "Polyester, Microfiber, Brushed Microfiber / polyester, microfiber",
        "wool": "Wool, Merino Wool, Hand-Tufted Wool / wool",
        "silk": "Silk, Mulberry Silk / silk",
        "jute": "Jute, Sisal, Natural Fiber / jute, natural fiber",
        "rubber": "Rubber, Natural Rubber, EPDM Rubber / rubber",
        "silicone": "Silicone, BPA-Free Silicone, Food-Grade Silicone / silicone",
        "nylon": "Nylon, Ripstop Nylon, 600D Nylon / nylon",
        "canvas": "Canvas, Waxed Canvas, Duck Canvas / canvas",
        "aluminum": "Aluminum, Anodized Aluminum, Aircraft Aluminum / aluminum, aluminium",
        "carbon": "Carbon Fiber, Carbon / carbon fiber, carbon",
        "brass": "Brass, Solid Brass / brass",
        "pvc": "PVC, Vinyl / pvc, vinyl, plastic",
        "foam": "Memory Foam, Gel Memory Foam, Foam / memory foam, foam",
        "down": "Goose Down, Down, Duck Down & Feather / down, feather",
        "paper": "Paper, Kraft Paper / paper",
        "fiberglass": "Fiberglass / fiberglass",
        "stone": "Stone, Marble, Travertine / stone, marble",
    },
    "power": {
        "gas": "Gas, Gas-Powered, 4-Cycle Gas, 2-Stroke Gas / gas, gas powered, petrol",
        "battery": "Cordless, Cordless, Battery-Powered, Lithium-Ion, Lithium-Ion Cordless / cordless, battery powered, battery",
        "corded": "Corded, Corded Electric, Plug-In Electric, Mains-Powered / corded, plug in, electric with cord",
        "manual": "Manual, Hand-Operated / manual, hand powered, non electric",
    },
    "fuel": {
        "gas": "Propane, Liquid Propane, LP Gas / propane, gas",
        "charcoal": "Charcoal, Charcoal-Fired / charcoal",
        "pellet": "Wood Pellet, Pellet-Fed / pellet, wood pellet",
        "electric": "Electric, Plug-In Electric / electric, plug in",
        "wood": "Wood-Burning, Wood-Fired / wood burning, wood",
    },
    "supply": {
        "battery": "Battery-Operated, AA Battery, Battery-Powered / battery operated, battery powered, no plug",
        "plug": "Plug-In, AC-Powered, Corded / plug in, corded",
        "solar": "Solar, Solar-Powered / solar, solar powered",
        "rechargeable": "Rechargeable, USB-C Rechargeable, USB Rechargeable / rechargeable, usb",
        "hardwired": "Hardwired, Hard-Wired / hardwired, wired in",
    },
    "bed": {
        "twin": "Twin, Twin Size / twin, single",
        "full": "Full, Full Size / full size, double",
        "queen": "Queen, Queen Size / queen, queen size",
        "king": "King, King Size / king, king size",
        "calking": "Cal King, California King / california king, cal king",
    },
    "who": {
        "men": "Men's, Mens / mens, for men, for him",
        "women": "Women's, Womens, Ladies' / womens, for women, ladies",
        "kids": "Kids', Youth, Children's / kids, for kids, childrens",
    },
    "fit": {
        "s": "Small, Size S / small",
        "m": "Medium, Size M / medium",
        "l": "Large, Size L / large",
        "xl": "X-Large, XL, Extra-Large / xl, extra large",
    },
    "shape": {
        "round": "Round, Circular / round, circular",
        "square": "Square / square",
        "rectangular": "Rectangular, Rectangle / rectangular, rectangle",
        "oval": "Oval / oval",
        "corner": "Corner / corner",
    },
}

# unit -> "words in titles / words in queries"
UNITS = {
    "in": '{v} in., {v}-Inch, {v} Inch, {v}" / {v} inch, {v} in, {v}in, {v}"',
    "ft": "{v} ft., {v}-Foot, {v} Ft, {v}' / {v} ft, {v} foot, {v}ft, {v} feet",
    "mm": "{v}mm, {v} mm / {v}mm, {v} mm",
    "cm": "{v} cm, {v}cm / {v} cm, {v}cm",
    "gal": "{v} Gal., {v}-Gallon, {v} Gallon / {v} gallon, {v} gal",
    "qt": "{v} Qt., {v}-Quart, {v} Quart / {v} quart, {v} qt",
    "cup": "{v}-Cup, {v} Cup / {v} cup, {v} cups",
    "oz": "{v} oz., {v}-Ounce, {v} oz / {v} oz, {v} ounce, {v}oz",
    "l": "{v}L, {v} Liter, {v}-Liter / {v} liter, {v}l, {v} litre",
    "lb": "{v} lb., {v}-Pound, {v} lbs / {v} lb, {v} pound, {v} lbs",
    "w": "{v}W, {v}-Watt, {v} Watt / {v} watt, {v}w",
    "v": "{v}V, {v}-Volt / {v}v, {v} volt",
    "amp": "{v} Amp, {v}A, {v}-Amp / {v} amp, {v}a",
    "btu": "{v} BTU / {v} btu",
    "lm": "{v} Lumen, {v}-Lumens, {v} lm / {v} lumens, {v} lumen",
    "gb": "{v}GB, {v} GB / {v}gb, {v} gb",
    "tb": "{v}TB, {v} TB / {v}tb, {v} tb, {v} terabyte",
    "cuft": "{v} cu. ft., {v} Cubic Foot, {v} Cu Ft / {v} cu ft, {v} cubic feet, {v} cubic foot",
    "ga": "{v}-Gauge, {v} Gauge, {v} Ga. / {v} gauge, {v} ga",
    "pack": "({v}-Pack), {v} Pk, Pack of {v}, ({v} Count), Set of {v} / {v} pack, pack of {v}, {v} pk, set of {v}",
    "piece": "{v}-Piece, {v} Pc, {v}-Pc. / {v} piece, {v} pc, {v} pieces",
    "person": "{v}-Person, {v} Person, Sleeps {v} / {v} person, {v} man, for {v} people",
    "key": "{v}-Key, {v} Keys / {v} key, {v} keys",
    "grit": "{v}-Grit, {v} Grit, P{v} / {v} grit",
}

# Pairs of measures such as 5x7; `{a}` and `{b}` are the sides.
PAIRS = {
    "ftxft": "{a} ft. x {b} ft., {a}' x {b}', {a} x {b} Feet, {a}x{b} ft / {a}x{b}, {a} x {b}, {a} by {b}, {a} ft by {b} ft",
    "inxin": '{a} in. x {b} in., {a}" x {b}", {a} x {b} in., {a}x{b} Inch / {a}x{b}, {a} x {b}, {a} by {b}, {a} inch by {b} inch',
}

# Features that any product may boast of; labels ignore them.
GENERIC_EXTRAS = (
    "Heavy-Duty", "Premium", "Easy to Clean", "Modern", "Classic", "Durable", "Lightweight", "Compact", "New Version", "Upgraded",
    "Professional", "Gift Boxed", "Limited Edition", "Everyday", "with 2-Year Warranty", "with Instructions", "Essential", "Deluxe",
)  # fmt: skip

NUMBER_WORDS = {"2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "8": "eight", "10": "ten", "12": "twelve"}

# What crowded listings do to long words.
ABBREVIATIONS = {
    "Stainless Steel": "SS",
    "Black": "Blk",
    "White": "Wht",
    "Assorted Colors": "Asst",
    "Replacement": "Repl.",
    "Adjustable": "Adj.",
    "Heavy-Duty": "HD",
    "Galvanized": "Galv.",
    "Aluminum": "Alum.",
    "Rechargeable": "Rechg.",
    "Extra-Large": "XL",
    "Medium": "Med",
    "Package": "Pkg",
    "Professional": "Pro",
    "Rectangular": "Rect.",
    "Waterproof": "Wtrprf",
}

MISSPELLINGS = {
    "adjustable": "ajustable", "aluminum": "alumnium", "aquarium": "aquarum, aqaurium", "bathroom": "bathrom",
    "battery": "batery, battry", "bicycle": "bycicle, bicyle", "blanket": "blankit", "bluetooth": "blutooth, blue tooth",
    "bookcase": "book case", "cabinet": "cabnet, cabinat", "camera": "camra", "ceiling": "cieling, celing",
    "ceramic": "cermaic", "chair": "chiar", "chandelier": "chandalier, chandelir", "charcoal": "charcole", "charger": "chager",
    "coffee": "cofee, coffe", "comforter": "conforter", "cordless": "cordles", "curtain": "curtian, curtin",
    "curtains": "curtians", "dehumidifier": "dehumidifer", "desk": "dest", "dishwasher": "dishwaser, dish washer",
    "drawer": "draw, drawr", "dresser": "dreser", "drill": "dril", "electric": "eletric, elctric", "exercise": "excercise",
    "extension": "extention", "faucet": "fauset, faucit", "filter": "filtr, fliter", "flashlight": "flash light",
    "fluorescent": "florescent", "freezer": "freezr", "garbage": "garbarge", "guitar": "gutair, guitr", "hammock": "hammok",
    "headphones": "head phones, headfones", "heater": "heatr", "hose": "hoes", "keyboard": "keybord, key board",
    "ladder": "lader", "lamp": "lamb", "laptop": "lap top", "leather": "lether", "light": "ligt", "luggage": "lugage",
    "lumber": "lumbar", "mattress": "matress, mattres", "microwave": "microwav", "mirror": "miror, mirrior",
    "monitor": "moniter", "mower": "mowr", "nightstand": "night stand", "outdoor": "out door, outdor", "pillow": "pilow",
    "pliers": "plyers, pliars", "portable": "portible", "printer": "pinter", "rechargeable": "rechargable",
    "refrigerator": "refridgerator, refrigirator", "replacement": "replacment", "screwdriver": "screw driver, screwdrver",
    "screws": "scews", "shelf": "shelve", "shower": "showr", "sleeping": "sleping", "speaker": "speeker",
    "sprinkler": "sprinklr, sprinker", "stainless": "stainles, stanless", "stroller": "stroler", "suitcase": "suitecase, suit case",
    "table": "tabel", "thermometer": "thermomiter", "thermostat": "thermastat", "toilet": "toliet", "treadmill": "tredmill",
    "trimmer": "trimer", "umbrella": "umbrela, unbrella", "vacuum": "vaccum, vacume", "vanity": "vanitiy",
    "waterproof": "water proof", "weight": "wieght", "white": "wite", "wireless": "wirless, wireles", "wooden": "woden",
    "wrench": "rench, wrentch",
}  # fmt: skip

# Nouns that shoppers do not put in the plural.
UNCOUNTED = {
    "bedding", "cable", "cookware", "cutlery", "drinkware", "dust", "equipment", "felt", "food", "furniture", "gear", "grass", "gravel",
    "jewelry", "lighting", "litter", "luggage", "paint", "paper", "rope", "sand", "sealant", "seating", "soap", "stain", "storage",
    "string", "tape", "twine", "wax", "wire", "caulk", "grease", "oil", "salt", "conditioner", "hardware", "silverware", "primer", "varnish",
    "something", "flooring", "formula", "charcoal", "music", "fertilizer", "detergent",
}  # fmt: skip
