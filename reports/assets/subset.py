"""Makes the bundled fonts from Debian's fonts-inter (4.0~beta7): Latin, tabular figures by default.

Needs fonttools and brotli. Figures are made tabular in the character map because glyphs are also
drawn without a shaper, where OpenType features do not apply.
"""

from fontTools import subset
from fontTools.ttLib import TTFont

CHARACTERS = [
    *range(0x20, 0x7F), *range(0xA0, 0x180), 0x2BC, 0x394, 0x3A3, 0x3BC, 0x2007, 0x2009, 0x202F,
    *range(0x2010, 0x2016), *range(0x2018, 0x201F), 0x2020, 0x2022, 0x2026, 0x2030, 0x2039, 0x203A,
    0x2044, 0x20AC, *range(0x2190, 0x2194), 0x2212, 0x2248, 0x2260, 0x2264, 0x2265, 0x221E, 0x2713,
    0x2717,
]


def tabular_figures(font):
    gsub = font["GSUB"].table
    mapping = {}
    for record in gsub.FeatureList.FeatureRecord:
        if record.FeatureTag == "tnum":
            for index in record.Feature.LookupListIndex:
                for table in gsub.LookupList.Lookup[index].SubTable:
                    mapping.update(getattr(table, "ExtSubTable", table).mapping)
    for table in font["cmap"].tables:
        if table.isUnicode():
            for digit in range(0x30, 0x3A):
                table.cmap[digit] = mapping.get(table.cmap[digit], table.cmap[digit])


for weight in ("Regular", "SemiBold"):
    font = TTFont(f"/usr/share/fonts/opentype/inter/Inter-{weight}.otf")
    tabular_figures(font)
    options = subset.Options()
    options.layout_features = ["kern"]
    options.hinting = False
    options.desubroutinize = True
    options.name_IDs = [0, 1, 2, 3, 4, 5, 6, 13, 14]
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=CHARACTERS)
    subsetter.subset(font)
    font.save(f"Inter-{weight}.otf")
    font.flavor = "woff2"
    font.save(f"Inter-{weight}.woff2")
