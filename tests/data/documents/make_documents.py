#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the small PDFs beside it that the extraction tests read. Needs reportlab and qpdf. The same call gives the
same text and layout; encrypted files differ in their random salts."""

import subprocess
from pathlib import Path

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import CIDFont, UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

HERE = Path(__file__).resolve().parent
DEJAVU = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"


def canvas(name, size=(400, 300)):
    return Canvas(str(HERE / name), pagesize=size, invariant=1, pageCompression=1)


def lines(page, x, y, texts, leading=14, font="Helvetica", size=11):
    page.setFont(font, size)
    for i, text in enumerate(texts):
        page.drawString(x, y - i * leading, text)


def plain():
    page = canvas("plain.pdf")
    page.setTitle("A plain page")
    lines(page, 40, 250, ["The harbour master counts the boats at noon.", "He writes the number into a green book."])
    page.save()


def columns():
    """Both columns start at the same height and are drawn line by line across the page."""
    page = canvas("columns.pdf")
    left = ["The left column speaks of", "apples that ripen late and", "keep well in a dry cellar", "until the end of March."]
    right = ["The right column speaks of", "pears that must be eaten", "within a week, because they", "do not keep at all."]
    for i, (a, b) in enumerate(zip(left, right)):
        lines(page, 30, 250 - 14 * i, [a])
        lines(page, 220, 250 - 14 * i, [b])
    page.save()


def rotated():
    """The same text on four pages that are turned by 0, 90, 180 and 270 degrees."""
    page = canvas("rotated.pdf")
    for turn in (0, 90, 180, 270):
        page.setPageRotation(turn)
        lines(page, 40, 250, ["A turned page keeps its words."])
        page.showPage()
    page.save()


def cropped():
    """The crop box leaves the right upper quarter of a page with one word near its left upper corner."""
    page = canvas("cropped.pdf")
    page.setCropBox((200, 150, 400, 300))
    lines(page, 210, 280, ["Visible"])
    lines(page, 20, 20, ["Hidden"])
    page.save()


def scanned():
    page = canvas("scanned.pdf")
    lines(page, 40, 250, ["The first page has words."])
    page.showPage()
    for _ in range(2):
        page.rect(50, 50, 300, 200, fill=1)
        page.showPage()
    lines(page, 40, 250, ["So has the last one."])
    page.save()


def hyphens():
    page = canvas("hyphens.pdf")
    lines(page, 40, 250, ["The light-", "house keeper looks after the lamp every night and re-", "cords the weather. His well-",
                          "known notebook is a well-known book of the self-", "taught observer."])
    page.save()


def headers():
    """Six pages with the same header and a page number; one sentence runs over each page break."""
    page = canvas("headers.pdf")
    for number in range(1, 7):
        lines(page, 40, 280, [f"Bulletin of the Harbour {number}"], size=8)
        lines(page, 40, 240, [f"of part {number - 1} ends here." if number > 1 else "It begins here.",
                              f"Part {number} tells of ship number {number} and the story"])
        lines(page, 190, 15, [f"{number}"], size=8)
        page.showPage()
    page.save()


def scripts():
    """Latin with accents, Greek and Cyrillic in an embedded font; a ligature; symbols beyond Latin-1."""
    pdfmetrics.registerFont(TTFont("DejaVu", DEJAVU))
    page = canvas("scripts.pdf")
    lines(page, 40, 260, ["Blåbær, œuvre, naïve façade, Straße, żółw.", "Η θάλασσα είναι ήσυχη.", "Маяк стоит на скале.",
                          "The of\ufb01ce is on the \ufb02oor above.", "20 \u20ac \u2013 30 \u20ac \u2026 \u201cquoted\u201d"],
          font="DejaVu", leading=20)
    page.save()


def encodings():
    """Standard fonts with WinAnsi and MacRoman codes beyond ASCII."""
    page = canvas("encodings.pdf")
    lines(page, 40, 250, ["Café crème à gogo, mañana, Übergröße, 50 € – “quoted” … ½ £"])
    from reportlab.pdfbase.pdfmetrics import Font
    pdfmetrics.registerFont(Font("Mac", "Times-Roman", "MacRomanEncoding"))
    lines(page, 40, 200, ["Été à Malmö, señor, æther"], font="Mac")
    page.save()


def asian():
    """Fonts that are not embedded: their text exists only through the CMaps and character collections of Adobe."""
    page = canvas("asian.pdf")
    samples = [("HeiseiMin-W3", "灯台は海の上に立っています。"), ("STSong-Light", "灯塔矗立在海边的悬崖上。"),
               ("HYSMyeongJo-Medium", "등대는 바다 위에 서 있습니다.")]
    for i, (face, text) in enumerate(samples):
        pdfmetrics.registerFont(UnicodeCIDFont(face))
        lines(page, 40, 250 - 30 * i, [text], font=face)
    pdfmetrics.registerFont(CIDFont("HeiseiKakuGo-W5", "90ms-RKSJ-H"))
    # Bytes of the Shift-JIS code page, one per character of the string.
    lines(page, 40, 120, ["日本の灯台".encode("cp932").decode("latin-1")], font="HeiseiKakuGo-W5-90ms-RKSJ-H")
    page.save()


def encrypted():
    for name, user, owner, bits in (("locked_rc4.pdf", "sesame", "owner", "128"), ("locked_aes.pdf", "sesame", "owner", "256"),
                                    ("owner_only.pdf", "", "owner", "256")):
        weak = ["--allow-weak-crypto"] if bits == "128" else []
        subprocess.run(["qpdf", *weak, "--encrypt", user, owner, bits, "--", str(HERE / "plain.pdf"), str(HERE / name)],
                       check=True)


if __name__ == "__main__":
    for make in (plain, columns, rotated, cropped, scanned, hyphens, headers, scripts, encodings, asian, encrypted):
        make()
