#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets source/handbook.txt as skerry_point_handbook.pdf. The same input gives the same bytes.

Needs reportlab, whose own Vera fonts are embedded. Run: python3 make_samples.py
"""

from pathlib import Path

from reportlab.lib import colors
from reportlab.lib.enums import TA_CENTER
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import (BaseDocTemplate, Frame, FrameBreak, KeepTogether, ListFlowable, ListItem, NextPageTemplate, PageBreak,
                                PageTemplate, Paragraph, Spacer, Table, TableStyle)

HERE = Path(__file__).resolve().parent
TITLE = "Skerry Point Observatory and Lighthouse"
SUBTITLE = "Annual Report 2024 and Handbook"
HEADER = "Skerry Point \u2013 Annual Report 2024 and Handbook"
MARGIN = 24 * mm
GAP = 9 * mm

BODY = ParagraphStyle("body", fontName="Vera", fontSize=10.6, leading=15.8, spaceAfter=7.5)
CHAPTER = ParagraphStyle("chapter", fontName="VeraBd", fontSize=16, leading=20, spaceBefore=16, spaceAfter=8, keepWithNext=1)
SECTION = ParagraphStyle("section", fontName="VeraBd", fontSize=12, leading=15, spaceBefore=9, spaceAfter=5, keepWithNext=1)
CAPTION = ParagraphStyle("caption", parent=BODY, fontName="VeraIt", fontSize=8.6, spaceBefore=2, keepWithNext=1)
CELL = ParagraphStyle("cell", parent=BODY, spaceAfter=0, leading=12)
COVER_TITLE = ParagraphStyle("cover", fontName="VeraBd", fontSize=26, leading=34, alignment=TA_CENTER, spaceAfter=14)
COVER_LINE = ParagraphStyle("cover line", fontName="Vera", fontSize=13, leading=20, alignment=TA_CENTER)


def draw_header_and_footer(canvas, document):
    canvas.saveState()
    canvas.setFont("Vera", 8)
    canvas.setFillColor(colors.HexColor("#505050"))
    canvas.drawString(MARGIN, A4[1] - 14 * mm, HEADER)
    canvas.drawCentredString(A4[0] / 2, 12 * mm, f"Page {document.page}")
    canvas.setStrokeColor(colors.HexColor("#b0b0b0"))
    canvas.line(MARGIN, A4[1] - 16 * mm, A4[0] - MARGIN, A4[1] - 16 * mm)
    canvas.restoreState()


def draw_lighthouse(canvas, _document):
    """A small lighthouse on the cover, drawn in lines."""
    canvas.saveState()
    canvas.translate(A4[0] / 2, 70 * mm)
    canvas.setStrokeColor(colors.HexColor("#303030"))
    canvas.setFillColor(colors.HexColor("#b23a2e"))
    tower = canvas.beginPath()
    for x, y in ((-16, 0), (-9, 105), (9, 105), (16, 0)):
        (tower.lineTo if y or x > 0 else tower.moveTo)(x, y)
    tower.close()
    canvas.drawPath(tower)
    canvas.rect(-12.3, 42, 24.6, 26, fill=1)
    canvas.rect(-13, 105, 26, 3)
    canvas.rect(-7, 108, 14, 14)
    for end in ((-70, 128), (-75, 115), (-70, 102), (70, 128), (75, 115), (70, 102)):
        canvas.line(12 if end[0] > 0 else -12, 115, *end)
    canvas.line(-60, 0, 60, 0)
    canvas.restoreState()


def table_of(rows):
    table = Table(rows, colWidths=[30 * mm, 40 * mm, 26 * mm, 28 * mm, 28 * mm], rowHeights=15, hAlign="LEFT")
    table.setStyle(TableStyle([
        ("FONT", (0, 0), (-1, 0), "VeraBd", 8.6),
        ("FONT", (0, 1), (-1, -1), "Vera", 8.6),
        ("ALIGN", (1, 0), (-1, -1), "RIGHT"),
        ("LINEBELOW", (0, 0), (-1, 0), 0.8, colors.black),
        ("LINEBELOW", (0, 1), (-1, -1), 0.25, colors.HexColor("#c0c0c0")),
        ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
    ]))
    return table


class Story:
    """Turns the marks of the source text into flowables."""

    def __init__(self):
        self.flowables = []
        self.bullets = []

    def close_list(self):
        if self.bullets:
            items = [ListItem(Paragraph(text, CELL), leftIndent=14) for text in self.bullets]
            self.flowables += [ListFlowable(items, bulletType="bullet", start="\u2022", bulletFontSize=8), Spacer(1, 7)]
            self.bullets = []

    def add_table(self, caption, lines):
        rows = [[cell.strip() for cell in line.split("|")] for line in lines]
        self.flowables.append(KeepTogether([Paragraph(caption, CAPTION), table_of(rows), Spacer(1, 9)]))

    def add_line(self, line):
        if line.startswith("- "):
            self.bullets.append(line[2:])
            return
        self.close_list()
        if line == "NEXTCOLUMN":
            self.flowables.append(FrameBreak())
        elif line == "ENDCOLUMNS":
            self.flowables += [NextPageTemplate("text"), PageBreak()]
        elif line.startswith("## "):
            self.flowables.append(Paragraph(line[3:], SECTION))
        elif line.startswith("# "):
            self.flowables.append(Paragraph(line[2:], CHAPTER))
        elif line:
            self.flowables.append(Paragraph(line, BODY))

    def read(self, source):
        lines = iter(source.splitlines())
        for line in lines:
            if line.startswith("TABLE "):
                self.close_list()
                self.add_table(line[6:], list(iter(lines.__next__, "END")))
            elif line.startswith("# ") and "Birds" in line:
                # The heading of the two-column chapter goes into its first column.
                self.flowables += [NextPageTemplate("columns"), PageBreak(), Paragraph(line[2:], CHAPTER)]
            elif line != "COLUMNS":
                self.add_line(line)
        self.close_list()
        return self.flowables


def contents(source):
    chapters = [line[2:] for line in source.splitlines() if line.startswith("# ")]
    return [Paragraph("Contents", CHAPTER)] + [Paragraph(chapter, BODY) for chapter in chapters]


def main():
    for name in ("Vera", "VeraBd", "VeraIt"):
        pdfmetrics.registerFont(TTFont(name, name + ".ttf"))
    source = (HERE / "source" / "handbook.txt").read_text(encoding="utf-8")
    width, height = A4[0] - 2 * MARGIN, A4[1] - 42 * mm
    column = (width - GAP) / 2
    document = BaseDocTemplate(str(HERE / "skerry_point_handbook.pdf"), pagesize=A4, title=f"{TITLE}: {SUBTITLE}",
                               author="Skerry Point Trust", lang="en", invariant=1)
    document.addPageTemplates([
        PageTemplate("cover", [Frame(MARGIN, 20 * mm, width, height)], onPage=draw_lighthouse),
        PageTemplate("text", [Frame(MARGIN, 20 * mm, width, height, 0, 0, 0, 0)], onPage=draw_header_and_footer),
        PageTemplate("columns", [Frame(MARGIN, 20 * mm, column, height, 0, 0, 0, 0),
                                 Frame(MARGIN + column + GAP, 20 * mm, column, height, 0, 0, 0, 0)],
                     onPage=draw_header_and_footer),
    ])
    cover = [Spacer(1, 40 * mm), Paragraph(TITLE, COVER_TITLE), Paragraph(SUBTITLE, COVER_LINE),
             Paragraph("Published by the Skerry Point Trust, Port Calder, April 2025", COVER_LINE),
             NextPageTemplate("text"), PageBreak()]
    document.build(cover + contents(source) + [PageBreak()] + Story().read(source))


if __name__ == "__main__":
    main()
