# SPDX-License-Identifier: Apache-2.0
"""Training text for the nano model: corpus harvest, tokenizer, and an endless stream of reading exercises.

    make_data.py corpus WORK      sentences of packaged documentation -> WORK/corpus.json
    make_data.py tokenizer WORK   trains the byte-level BPE            -> WORK/tokenizer.json
    make_data.py show WORK        prints one exercise of the last stage
An exercise is a set of passages followed by several question and answer turns (see `Maker.exercise`).
Everything whose hash falls into the held-out share (documents, names, words) and the relations marked
held-out are used by evaluate.py only.
"""
import glob
import bisect
import gzip
import html
import json
import os
import random
import re
import sys
import zlib

# ---------------------------------------------------------------- corpus
SOURCES = {  # Debian package: (file patterns, largest number of files)
    "postgresql-doc-15": (["/usr/share/doc/postgresql-doc-15/html/*.html"], 1300),
    "sqlite3-doc": (["/usr/share/doc/sqlite3/*.html"], 400),
    "python3.11-doc": (["/usr/share/doc/python3.11/html/*/*.html"], 600),
    "git-doc": (["/usr/share/doc/git-doc/*.html", "/usr/share/doc/git-doc/*/*.html"], 400),
    "debian-policy": (["/usr/share/doc/debian-policy/*.html", "/usr/share/doc/debian-policy/policy.html/*.html"], 60),
    "debian-handbook": (["/usr/share/doc/debian-handbook/html/en-US/*.html"], 200),
    "debian-reference-en": (["/usr/share/debian-reference/*.en.html"], 40),
    "debian-faq": (["/usr/share/doc/debian/FAQ/*.en.html"], 40),
    "developers-reference": (["/usr/share/developers-reference/*.html"], 40),
    "installation-guide-amd64": (["/usr/share/doc/installation-guide-amd64/en/*.html"], 200),
    "gnucash-docs": (["/usr/share/doc/gnucash-docs/gnucash-guide-en/*.html"], 300),
    "perl-doc": (["/usr/share/perl/5.36*/pod/*.pod"], 250),
    "linux-doc-6.1": (["/usr/share/doc/linux-doc-6.1/Documentation/**/*.rst.gz"], 1200),
}


def read(path):
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as f:
        return f.read().decode("utf-8", "replace")


def plain_paragraphs(path):
    """Paragraphs of running text in an HTML, POD or reStructuredText file."""
    t = read(path)
    if ".html" in path:
        t = re.sub(r"(?is)<(script|style|pre|nav|head|table)\b.*?</\1>", " ", t)
        t = re.sub(r"(?i)<(p|li|dd|dt|h\d|div|tr|td|br|blockquote|section)\b[^>]*>", "\n\n", t)
        t = html.unescape(re.sub(r"<[^>]+>", "", t))
    elif path.endswith(".pod"):
        t = re.sub(r"[BCFILSXEZ]<+ ?([^<>]*?) ?>+", r"\1", t)
        t = "\n\n".join(p for p in t.split("\n\n") if not p.startswith(("=", " ", "\t")))
    else:
        t = "\n\n".join(p for p in t.split("\n\n") if not p.startswith((" ", "\t", "..", ":", "=", "-")))
        t = re.sub(r":\w+:`([^`]*)`", r"\1", t).replace("``", "").replace("**", "")
    for p in re.split(r"\n\s*\n", t):
        p = re.sub(r"\s+", " ", p).strip()
        p = p.translate({0x2018: "'", 0x2019: "'", 0x201c: '"', 0x201d: '"', 0xa0: " ", 0x2013: "-", 0x2014: " - "})
        if len(p) > 50:
            yield p


def sentences(par):
    par = re.sub(r"\b(e\.g|i\.e|etc|vs|cf|Mr|Mrs|Dr|St|No|Fig|approx)\. ", lambda m: m[0][:-1] + "\0", par)
    return [s.replace("\0", " ") for s in re.split(r"(?<=[.!?]) +(?=[A-Z\"'(])", par)]


def good(s):
    w = s.split()
    return (5 <= len(w) <= 36 and s[0].isupper() and s[-1] in ".!?" and len(s) < 260 and s.isascii()
            and sum(c.isalpha() or c == " " for c in s) > 0.85 * len(s) and max(map(len, w)) < 30)


def build_corpus(work):
    docs, seen = [], set()
    for pkg, (pats, limit) in SOURCES.items():
        files = sorted({f for p in pats for f in glob.glob(p, recursive=True) if os.path.isfile(f)})
        random.Random(7).shuffle(files)
        n = 0
        for f in sorted(files[:limit]):
            pars = []
            for p in plain_paragraphs(f):
                run = []
                for s in sentences(p):
                    if good(s) and s not in seen:
                        seen.add(s)
                        run.append(s)
                if run:
                    pars.append(run)
            if sum(map(len, pars)) >= 6:
                docs.append({"pkg": pkg, "file": os.path.basename(f), "pars": pars})
                n += sum(map(len, pars))
        print(pkg, len(files), "files", n, "sentences")
    json.dump(docs, open(os.path.join(work, "corpus.json"), "w"))
    print(len(docs), "documents", sum(len(p) for d in docs for p in d["pars"]), "sentences")


# ---------------------------------------------------------------- tokenizer
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def build_tokenizer(work, size=4096):
    """Byte-level BPE whose merges never join a leading space before the word itself is complete, so that a word is
    cut the same way at the start of an answer and inside a passage."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    mk = Maker(work, seed=1)
    text = []
    for i in range(6000):
        passages, turns = mk.material(4, 60, 160)
        text += [p.text for p in passages] + [q for q, _ in turns]
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[\r\n]+|\s+|[^\s\p{L}\p{N}]+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    n_base = 256 + (size - 256 - len(SPECIALS)) // 2 + 60
    base.train_from_iterator(text, trainers.BpeTrainer(vocab_size=n_base, show_progress=False, max_token_length=14,
                                                       initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    d = json.loads(base.to_str())["model"]
    vocab, merges = d["vocab"], [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in d["merges"]]
    # frequency of word-initial pieces after a space
    freq = {}
    for t in text:
        for w in set(re.findall(r" ([^\s\d]+)", t)):
            toks = base.encode(w).tokens
            freq[toks[0]] = freq.get(toks[0], 0) + 1
    room = size - len(SPECIALS) - len(vocab)
    for piece, _ in sorted(freq.items(), key=lambda x: (-x[1], x[0]))[:room]:
        if "\u0120" + piece not in vocab:
            vocab["\u0120" + piece] = len(vocab)
            merges.append(("\u0120", piece))
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel(add_prefix_space=False, use_regex=False)
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    tok.save(os.path.join(work, "tokenizer.json"))
    n = sum(len(tok.encode(t).ids) for t in text[:2000])
    print("vocabulary", tok.get_vocab_size(), "characters per token", sum(map(len, text[:2000])) / n)


# ---------------------------------------------------------------- words
def held(word, share=10):
    return zlib.crc32(str(word).encode()) % share == 0


VOWELS = set("aeiou")


def inflect(verb, exc):
    """past, participle, third person, -ing of a regular or listed verb."""
    if verb in exc:
        past, part = exc[verb]
    else:
        if verb.endswith("e"):
            past = verb + "d"
        elif verb.endswith("y") and verb[-2] not in VOWELS:
            past = verb[:-1] + "ied"
        else:
            past = verb + "ed"
        part = past
    if verb.endswith("y") and verb[-2] not in VOWELS:
        third = verb[:-1] + "ies"
    elif verb.endswith(("s", "x", "z", "ch", "sh", "o")):
        third = verb + "es"
    else:
        third = verb + "s"
    return past, part, third


VERBS = """build design repair clean paint open close move visit measure describe record carry lift store copy print
test inspect replace install remove fill empty warm cool light turn push pull load unload guard protect cover seal heat
dry wash count weigh mark label sort list check approve reject order sign deliver collect return lend rent lock unlock
use need contain produce create destroy damage improve rebuild restore discover notice observe photograph map name
follow lead train teach help invite thank call warn ask answer study examine translate publish edit finish plan start
stop delay cancel reopen connect attach fold polish sharpen bend block drain dig plant water harvest trade export import
tax fund finance sponsor support manage direct supervise operate drive sail pilot control adjust calibrate tune rotate
raise lower hold support surround face cross enter leave reach join attack defend capture free feed rescue track hunt
stain engrave carve decorate frame hang display exhibit donate inherit purchase auction insure value compare""".split()
IRREGULAR = {"build": ("built", "built"), "rebuild": ("rebuilt", "rebuilt"), "light": ("lit", "lit"),
             "lend": ("lent", "lent"), "lead": ("led", "led"), "teach": ("taught", "taught"), "stop": ("stopped",) * 2,
             "plan": ("planned",) * 2, "map": ("mapped",) * 2, "bend": ("bent",) * 2, "dig": ("dug",) * 2,
             "drive": ("drove", "driven"), "hold": ("held",) * 2, "leave": ("left",) * 2, "feed": ("fed",) * 2,
             "hang": ("hung",) * 2, "label": ("labelled",) * 2, "cancel": ("cancelled",) * 2}
ADJ = """old new small large tall narrow wide heavy light wooden iron brass copper glass stone brick round square empty
broken painted hidden upper lower eastern western northern southern inner outer main second third spare red blue green
white black grey yellow silver golden dusty quiet ruined modern ancient famous public private electric hydraulic
portable digital fragile rare long short steep deep shallow warm cold damp dry dark bright""".split()
PLACE = """Point Hill Bay Island Street Lane Bridge Valley Harbour Cove Head Moor Wood Park Square Gate Cross Ridge
Creek Lake Pass Green Field Marsh Quay Terrace Heights Falls""".split()
ROLE = """architect engineer captain director curator keeper librarian astronomer carpenter surveyor printer gardener
physicist teacher painter sculptor merchant photographer editor mechanic clerk botanist chemist conductor translator
optician baker farmer miller glazier mason locksmith watchmaker navigator accountant inspector secretary""".split()
MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
COLOURS = """red blue green white black grey yellow purple orange brown cream turquoise crimson scarlet olive navy pink
violet silver amber""".split()
MATERIALS = """oak granite copper slate marble brick steel bronze bamboo glass limestone concrete pine aluminium leather
sandstone walnut ceramic zinc iron cedar timber brass basalt""".split()
NUMWORD = "two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty".split()
ONSET = "b br c ch cl d dr f fl g gl gr h j k kl l m n p pr qu r s sh sk sl st t th tr v w y z".split()
NUC = "a e i o u ai ea ee ou ar er or".split()
CODA = "n r l s t m nd rt ck sk th st ld x rn".split() + [""] * 6
STOP = set("""the a an of in on at to for from with by and or but if is are was were be been being it its this that these
those as not no can may will would should must do does did has have had which who whom what when where why how there
here than then so such any all each some more most other into only also you your we our they their he she his her i
about use used using one two when while because between after before during under over same just very""".split())


def stem(w):
    w = w.lower()
    for s in ("ing", "ied", "ies", "ed", "es", "s", "e"):
        if w.endswith(s) and len(w) - len(s) >= 3:
            return w[:-len(s)]
    return w


def words(s):
    return re.findall(r"[A-Za-z][A-Za-z_'-]*|\d+", s)


def content(s):
    return [w for w in words(s) if w.lower() not in STOP and len(w) > 1]


# ---------------------------------------------------------------- relations between an entity and a value
# (kinds of entity, value type, statements, questions, held out?)  {E} entity, {V} value, {It} pronoun or entity
def R(kinds, val, st, qs, held_out=False):
    return dict(kinds=kinds.split(), val=val, st=st.split(" | "), qs=qs.split(" | "), held=held_out)


RELATIONS = [
    R("thing place", "year", "{E} was built in {V}. | {E} was built in {V} by a local firm. | Construction of {E} began in {V}. | In {V} workers built {E}.",
      "When was {E} built? | In which year was {E} built? | What year was {E} constructed?"),
    R("thing place", "year", "{E} was rebuilt in {V} after the {dis}. | After the {dis}, {E} was rebuilt in {V}. | {E} had to be rebuilt in {V}.",
      "When was {E} rebuilt? | In what year was {E} rebuilt?"),
    R("thing place", "person", "{E} was designed by {V}. | {V} designed {E}. | The design of {E} is the work of {V}. | {V} drew up the plans for {E} in {y}.",
      "Who designed {E}? | Who was the designer of {E}? | Who drew the plans for {E}?"),
    R("thing place", "person", "{E} was built by {V}. | {V} built {E} with {n} helpers. | {V} was the builder of {E}.", "Who built {E}? | Who was {E} built by?"),
    R("thing place", "length", "{E} is {V} tall. | {E} stands {V} tall. | {E} rises to a height of {V}. | The height of {E} is {V}. | At {V}, {E} is the tallest in the county.",
      "How tall is {E}? | What is the height of {E}? | How high is {E}?"),
    R("thing place", "length", "{E} is {V} long. | {E} has a length of {V}. | {E} measures {V} from end to end. | The length of {E} is {V}.", "How long is {E}? | What is the length of {E}?"),
    R("thing", "weight", "{E} weighs {V}. | {E} has a weight of {V}. | The weight of {E} is {V}. | Fully equipped, {E} weighs {V}.", "How much does {E} weigh? | What is the weight of {E}? | How heavy is {E}?"),
    R("thing", "weight", "The maximum load of {E} is {V}. | {E} can lift at most {V}. | {E} carries a maximum load of {V}. | {E} must not be loaded with more than {V}.",
      "What is the maximum load of {E}? | How much can {E} lift? | What is the largest load {E} can carry? | What load can {E} bear?"),
    R("thing place", "colour", "{E} is painted {V}. | {E} was painted {V} last year. | The colour of {E} is {V}. | {E} has been {V} ever since it was repainted.", "What colour is {E}? | Which colour is {E} painted? | What color is {E}?"),
    R("thing place", "material", "{E} is made of {V}. | {E} is built of {V}. | {V} was used for {E}. | Most of {E} consists of {V}.", "What is {E} made of? | Which material is {E} made of? | What was used to make {E}?"),
    R("place", "time", "{E} opens at {V}. | {E} opens at {V} on weekdays. | The doors of {E} open at {V}. | Visitors may enter {E} from {V}.", "When does {E} open? | At what time does {E} open? | What time does {E} open?"),
    R("place", "time", "{E} closes at {V}. | {E} is closed from {V}. | {E} closes at {V} every day. | The closing time of {E} is {V}.", "When does {E} close? | At what time does {E} close? | What is the closing time of {E}?"),
    R("place", "day", "{E} is closed on {V}. | On {V}, {E} stays closed. | {E} does not open on {V}.", "On which day is {E} closed? | When is {E} closed?"),
    R("place", "money", "Admission to {E} costs {V}. | A ticket for {E} costs {V}. | Visitors pay {V} to enter {E}. | The entrance fee for {E} is {V}.", "How much does a ticket for {E} cost? | What does admission to {E} cost? | What is the entrance fee for {E}?"),
    R("thing", "money", "{E} cost {V}. | {E} was bought for {V}. | The price of {E} was {V}. | The trustees paid {V} for {E}.", "How much did {E} cost? | What was the price of {E}? | How much was paid for {E}?"),
    R("place", "count people", "{E} has room for {V}. | {E} holds up to {V}. | The capacity of {E} is {V}. | Up to {V} can be seated in {E}.", "How many people does {E} hold? | What is the capacity of {E}? | How many people fit into {E}?"),
    R("place thing", "where", "{E} is located {V}. | {E} stands {V}. | You will find {E} {V}. | {E} is kept {V}.", "Where is {E}? | Where is {E} located? | Where can {E} be found? | Where does {E} stand?"),
    R("thing", "where", "{E} was found {V}. | Divers found {E} {V}. | {E} was discovered {V} in {y}.", "Where was {E} found? | Where was {E} discovered?"),
    R("thing", "person", "{E} was invented by {V}. | {V} invented {E}. | The inventor of {E} was {V}.", "Who invented {E}? | Who was the inventor of {E}?"),
    R("thing place", "person", "{E} belongs to {V}. | {V} owns {E}. | {E} is the property of {V}. | The owner of {E} is {V}.", "Who owns {E}? | Who is the owner of {E}? | Whom does {E} belong to?"),
    R("thing place", "person", "{V} repaired {E}. | {E} was repaired by {V} in {y}. | {E} was repaired by {V}.", "Who repaired {E}? | Who carried out the repair of {E}?"),
    R("thing place", "person", "{V} maintains {E}. | {V} is responsible for {E}. | {E} is looked after by {V}. | {V} is in charge of {E}.", "Who is responsible for {E}? | Who looks after {E}? | Who maintains {E}? | Who is in charge of {E}?"),
    R("thing", "interval", "{E} must be cleaned {V}. | Clean {E} {V}. | {E} needs cleaning {V}.", "How often must {E} be cleaned? | How often should {E} be cleaned?"),
    R("thing", "interval", "{E} must be inspected {V}. | {E} is inspected {V}. | Inspect {E} {V}. | An inspection of {E} takes place {V}.", "How often is {E} inspected? | How often must {E} be inspected?"),
    R("thing", "interval", "The {part} of {E} must be replaced {V}. | Replace the {part} of {E} {V}. | {E} needs a new {part} {V}.", "How often must the {part} of {E} be replaced? | When should the {part} of {E} be replaced?"),
    R("thing", "temp", "{E} works at up to {V}. | The operating temperature of {E} is {V}. | {E} should be kept at {V}. | {E} must not become warmer than {V}.", "What is the operating temperature of {E}? | At what temperature should {E} be kept? | How warm may {E} become?"),
    R("thing", "power", "{E} uses {V}. | {E} draws {V}. | The power consumption of {E} is {V}. | {E} needs {V} of power.", "How much power does {E} use? | What is the power consumption of {E}? | How much electricity does {E} draw?"),
    R("thing", "duration", "The battery of {E} lasts {V}. | {E} runs for {V} on one charge. | A full charge keeps {E} running for {V}.", "How long does the battery of {E} last? | How long does {E} run on one charge?"),
    R("thing", "duration", "The warranty of {E} lasts {V}. | {E} comes with a warranty of {V}. | {E} is guaranteed for {V}.", "How long is the warranty of {E}? | How long is {E} guaranteed?"),
    R("thing", "speed", "{E} reaches {V}. | The top speed of {E} is {V}. | {E} moves at {V}. | {E} travels at a maximum of {V}.", "How fast is {E}? | What is the top speed of {E}? | How fast does {E} move?"),
    R("thing place", "count items", "{E} has {V}. | There are {V} in {E}. | {E} contains {V}. | {E} is equipped with {V}.", "How many {item} does {E} have? | How many {item} are in {E}? | What is the number of {item} in {E}?"),
    R("thing place", "purpose", "{E} is used to {V}. | {E} was made to {V}. | The purpose of {E} is to {V}. | People use {E} to {V}. | {E} serves to {V}.", "What is {E} used for? | What is the purpose of {E}? | What does {E} do? | Why do people use {E}?"),
    R("thing place", "reason", "{E} was closed because {V}. | {E} had to close because {V}. | Because {V}, {E} was closed.", "Why was {E} closed? | Why did {E} close? | For what reason was {E} closed?"),
    R("thing", "reason", "{E} failed because {V}. | {E} stopped working because {V}. | {E} broke down because {V}.", "Why did {E} fail? | Why did {E} stop working? | What made {E} fail?"),
    R("thing place", "date", "{E} was opened on {V}. | The opening of {E} took place on {V}. | On {V}, {E} opened its doors. | {E} was officially opened on {V}.", "When was {E} opened? | On what date was {E} opened? | When did {E} open to the public?"),
    R("thing place", "event", "{E} was destroyed by {V}. | {V} destroyed {E}. | {E} was lost to {V}.", "What destroyed {E}? | How was {E} destroyed? | What happened to {E}?"),
    R("thing", "org", "{E} was given by {V}. | {V} donated {E}. | {E} was a gift from {V}.", "Who donated {E}? | Who gave {E}? | From whom did {E} come?"),
    R("person", "year", "{E} was born in {V}. | Born in {V}, {E} grew up by the sea. | {E} was born in {V} in a small village.", "When was {E} born? | In which year was {E} born?"),
    R("person", "town", "{E} was born in {V}. | {E} comes from {V}. | The birthplace of {E} is {V}. | {E} grew up in {V}.", "Where was {E} born? | Where does {E} come from? | Where did {E} grow up?"),
    R("person", "year", "{E} died in {V}. | {E} died in {V} after a long illness. | The death of {E} came in {V}.", "When did {E} die? | In which year did {E} die?"),
    R("person", "role", "{E} is {V}. | {E} worked as {V}. | By profession {E} was {V}. | {E} earned a living as {V}.", "What is the profession of {E}? | What did {E} do for a living? | What was the job of {E}? | Who is {E}?"),
    R("person", "town", "{E} lives in {V}. | {E} moved to {V} in {y}. | The home of {E} is in {V}.", "Where does {E} live? | Where is the home of {E}?"),
    R("person", "subject", "{E} studied {V}. | {E} studied {V} at university. | As a student, {E} read {V}.", "What did {E} study? | Which subject did {E} study?"),
    R("person", "title", "{E} wrote {V}. | {E} is the author of {V}. | {V} was written by {E}. | {E} published {V} in {y}.", "What did {E} write? | Which book did {E} write? | What is {E} the author of?"),
    R("person", "person", "{E} is married to {V}. | {E} married {V} in {y}. | {V} is the spouse of {E}.", "Who is {E} married to? | Whom did {E} marry?"),
    R("person", "org", "{E} works for {V}. | {E} joined {V} in {y}. | {V} hired {E}. | {E} is employed by {V}.", "Who does {E} work for? | Who employs {E}? | Which organisation did {E} join?"),
    R("person", "object", "{E} bought {V}. | {E} purchased {V} in {y}. | {V} was bought by {E}.", "What did {E} buy? | What was bought by {E}?"),
    R("person", "object", "{E} lost {V}. | {E} lost {V} on the way home. | {V} was lost by {E}.", "What did {E} lose? | What was lost by {E}?"),
    R("person", "object", "{E} found {V}. | {E} found {V} under the floor. | {V} was found by {E} in {y}.", "What did {E} find? | What was found by {E}?"),
    R("person", "phone", "{E} can be reached at {V}. | The telephone number of {E} is {V}. | Call {E} at {V}.", "What is the telephone number of {E}? | How can {E} be reached?"),
    R("place", "phone", "The telephone number of {E} is {V}. | {E} can be called at {V}.", "What is the telephone number of {E}? | What number should I call for {E}?"),
    R("code", "value", "`{E}` defaults to {V}. | The default value of `{E}` is {V}. | `{E}` is set to {V} by default. | {E} = {V} | - `{E}`: {V} by default", "What is the default value of {E}? | What is the default of {E}? | What does {E} default to? | What is {E} set to?"),
    R("code", "purpose", "`{E}` is used to {V}. | # {E}: used to {V} | The option `{E}` lets you {V}. | Call `{E}` to {V}. | - `{E}` - used to {V}.", "What does {E} do? | What is {E} used for? | What is the purpose of {E}?"),
    R("code", "exc", "`{E}` raises {V} when the input is empty. | {E} throws {V} on failure. | On failure, `{E}` raises {V}.", "What does {E} raise? | Which error does {E} raise? | What exception does {E} throw?"),
    R("code", "value", "`{E}` returns {V} on success. | The return value of `{E}` is {V}. | {E} returns {V}.", "What does {E} return? | What is the return value of {E}?"),
    R("code", "file", "{E} is defined in {V}. | The definition of `{E}` is in {V}. | You can find `{E}` in {V}.", "Where is {E} defined? | In which file is {E} defined? | Which file contains {E}?"),
    R("code", "version", "`{E}` was added in version {V}. | {E} is available since version {V}. | New in version {V}: {E}.", "In which version was {E} added? | Since which version is {E} available?"),
    R("thing", "key", "To start {E}, press {V}. | Press {V} to start {E}. | {E} is started with {V}. | Use {V} to switch on {E}.", "How do I start {E}? | How is {E} started? | How do you switch on {E}?"),
    R("thing", "key", "To stop {E}, press {V}. | {V} stops {E}. | Press {V} to switch off {E}. | {E} is stopped with {V}.", "How do I stop {E}? | How is {E} switched off? | How can {E} be stopped?"),
    R("thing", "action", "If {E} does not start, {V}. | When {E} refuses to start, {V}. | Should {E} not start, {V}.", "What should I do if {E} does not start? | What if {E} does not start?"),
    R("place thing", "event", "{E} is famous for {V}. | {E} is best known for {V}. | {V} made {E} famous.", "What is {E} famous for? | What is {E} known for?"),
    R("org", "year", "{E} was founded in {V}. | {E} was established in {V}. | Founded in {V}, {E} is the oldest of its kind.", "When was {E} founded? | In which year was {E} established?"),
    R("org", "person", "{E} was founded by {V}. | {V} founded {E}. | The founder of {E} was {V}.", "Who founded {E}? | Who was the founder of {E}?"),
    R("org", "person", "{E} is led by {V}. | {V} chairs {E}. | {V} is the director of {E}. | The director of {E} is {V}.", "Who leads {E}? | Who is the director of {E}? | Who is the head of {E}?"),
    R("org", "count members", "{E} has {V}. | {E} counts {V}. | There are {V} in {E}.", "How many members does {E} have? | How many members are in {E}?"),
    R("org", "town", "{E} is based in {V}. | {E} has its seat in {V}. | The headquarters of {E} are in {V}.", "Where is {E} based? | Where are the headquarters of {E}?"),
    R("org", "day", "{E} meets on {V}. | The meetings of {E} take place on {V}. | {E} meets every week on {V}.", "When does {E} meet? | On which day does {E} meet?"),
    # held out: seen by evaluate.py only
    R("thing", "money", "{E} is insured for {V}. | The insurance value of {E} is {V}.", "For how much is {E} insured? | What is the insurance value of {E}?", True),
    R("thing place", "person", "{E} was photographed by {V}. | {V} took the only photograph of {E}.", "Who photographed {E}? | Who took a photograph of {E}?", True),
    R("place", "length", "{E} is {V} deep. | The depth of {E} is {V}.", "How deep is {E}? | What is the depth of {E}?", True),
    R("thing", "year", "{E} was sold in {V}. | In {V} the town sold {E}.", "When was {E} sold? | In what year was {E} sold?", True),
    R("person", "subject", "{E} teaches {V}. | {E} teaches {V} at the evening school.", "What does {E} teach? | Which subject does {E} teach?", True),
    R("person", "object", "{E} collects {V}. | For many years {E} has collected {V}.", "What does {E} collect?", True),
    R("org", "object", "{E} manufactures {V}. | {V} is manufactured by {E}.", "What does {E} manufacture?", True),
    R("code", "duration", "`{E}` times out after {V}. | The timeout of {E} is {V}.", "When does {E} time out? | What is the timeout of {E}?", True),
]
THINGS = """lighthouse telescope crane pump engine clock boiler printer lens organ ferry bell tower mirror camera lamp
tractor elevator generator compass kettle press lock valve scanner projector turbine harpsichord bicycle barometer wagon
fountain ladder anchor piano stove microscope sextant heater radio antenna locomotive dome shutter statue trolley safe
drill conveyor mower furnace ventilation thermostat gate boat globe chronometer tapestry carpet manuscript chandelier
loom anvil windmill watermill dishwasher refrigerator toaster kayak tent stapler cabinet bench desk crate satellite
buoy sundial seismograph alarm filter keyboard router sensor tripod spectrograph humidifier hoist forklift winch""".split()
PLACES = """library museum mill bridge harbour station archive observatory theatre reading_room school castle garden
hospital chapel market warehouse workshop quarry tunnel canal reservoir inn cafe bakery gallery laboratory cellar attic
greenhouse pier lecture_hall map_room storeroom visitor_centre ticket_office cemetery swimming_pool post_office barn
kitchen courtyard library_annex car_park boathouse vault lobby cloakroom dormitory brewery orchard stable""".split()
ORGS = """society trust company council club foundation institute association museum_board guild committee bureau union
agency league college cooperative bank brewery orchestra""".split()
PARTS = "filter belt lamp seal battery fuse cable valve bearing spring bulb gasket".split()
ITEMS = """rooms windows steps seats books drawers doors shelves wheels rungs mirrors buttons towers gears cells pumps
pages paintings columns beds lamps pipes cables bells tables""".split()
DISASTER = "flood fire storm war earthquake explosion landslide collapse".split()
PURPOSE = """measure the depth of the harbour;store spare parts;count the visitors;warn ships in fog;dry herbs and
flowers;print tickets;lift heavy crates;filter drinking water;grind corn;keep the lenses free of dust;record the wind
speed;pump water out of the cellar;sort letters;copy old maps;warm the greenhouse;test new cables;open the roof;follow the
stars;protect the paintings from light;cut glass;train young pilots;send messages to the coast;weigh grain;read the
configuration file;remove temporary files;compress the log;open a connection to the server;split a line into
words;draw the window;count open files;check the password;convert dates;merge two lists;limit the memory use;hide empty
rows;store the last result;cache images;escape special characters;sort the index""".replace("\n", " ").split(";")
REASON = """the roof was leaking;there was no money left;the river had flooded the cellar;a cable had melted;the owner
moved abroad;the mirror was cracked;nobody bought tickets;the foundation had become unsafe;the spare parts were not
delivered;mice had eaten the insulation;the lease had ended;too much dust had collected in the bearings;the water was
polluted;the bolts had rusted;a storm broke the mast;its licence had expired;the last keeper retired""".replace("\n", " ").split(";")
ACTIONS = """check the fuse;hold the red button for NUM seconds;disconnect the cable and wait NUM minutes;replace the
batteries;call the service desk;open the rear panel and press reset;tighten the screw on the left side;make sure that the
lid is closed;fill the tank with water;clean the contacts with a dry cloth;turn the handle NUM times;update the
firmware;remove the transport lock""".replace("\n", " ").split(";")
EVENTS = """a great fire;an avalanche;a violent storm;its collection of clocks;its echo;a flood;its blue windows;a
lightning strike;its annual kite festival;a landslide;its painted ceiling;a colony of bats;its pear trees;a duel between
two poets;its narrow staircase;its apple cake""".replace("\n", " ").split(";")
SUBJECTS = """chemistry law medicine geology botany history astronomy Latin engineering mathematics music philosophy
architecture navigation economics geography Greek optics theology zoology statistics""".split()
UNITS = {"length": ["metres", "feet", "m", "kilometres", "centimetres", "yards"], "weight": ["kg", "tonnes", "kilograms", "pounds", "grams"],
         "power": ["watts", "kilowatts", "W", "kW"], "duration": ["hours", "days", "minutes", "years", "months", "weeks", "seconds"],
         "speed": ["kilometres per hour", "knots", "metres per second", "km/h", "mph"]}


class Unit:
    """One sentence or line of a passage with its possible questions (None: made from the words of the sentence)."""

    def __init__(self, text, questions=(), kind="fact"):
        self.text, self.questions, self.kind = text, questions, kind


class Passage:
    def __init__(self, units, sep=" "):
        self.units, self.sep = units, sep
        self.text = sep.join(u.text for u in units)
        self.n_words = sum(len(u.text.split()) for u in units)


class Maker:
    """Seeded source of exercises. evaluation=True uses only the held-out pools."""

    def __init__(self, work, seed, evaluation=False, packages=None):
        self.r = random.Random(seed)
        self.eval = evaluation
        keep = (lambda x, s=10: held(x, s)) if evaluation else (lambda x, s=10: not held(x, s))
        docs = json.load(open(os.path.join(work, "corpus.json")))
        self.docs = [d for d in docs if keep(d["pkg"] + "/" + d["file"]) and (not packages or d["pkg"] in packages)]
        self.runs = [p for d in self.docs for p in d["pars"]]
        weights = []
        for d in self.docs:
            k = 0.35 if d["pkg"] == "postgresql-doc-15" or d["pkg"] == "linux-doc-6.1" else 1.0
            weights += [k * min(len(p), 6) for p in d["pars"]]
        tot, self.cum = 0.0, []
        for w in weights:
            tot += w
            self.cum.append(tot)
        caps, lower = [], []
        for w in open("/usr/share/dict/american-english", encoding="utf-8"):
            w = w.strip()
            if w.isascii() and w.isalpha() and keep(w):
                (caps if w[0].isupper() and len(w) > 3 else lower).append(w)
        self.names = caps
        path = os.path.join(work, "tokenizer.json")
        self.pieces = [t.lstrip("\u0120") for t in json.load(open(path))["model"]["vocab"]] if os.path.exists(path) else ["x"]
        self.pieces = [t for t in self.pieces if t.isascii() and t.isalpha() and len(t) > 1]
        self.lower = [w for w in lower if 3 < len(w) < 11]
        self.defs = self.wordnet(keep)
        self.relations = [x for x in RELATIONS if evaluation or not x["held"]]

    def wordnet(self, keep):
        out = []
        for pos in ("noun", "verb"):
            for line in open(f"/usr/share/wordnet/data.{pos}", encoding="utf-8", errors="replace"):
                if line.startswith(" ") or " | " not in line:
                    continue
                head, gloss = line.split(" | ", 1)
                f = head.split(" ")
                word = f[4].replace("_", " ")
                g = gloss.split(";")[0].strip()
                if not word.isascii() or not re.fullmatch(r"[a-z -]+", word) or not g.isascii() or "(" in g \
                        or not 4 <= len(g.split()) <= 22 or not keep(word):
                    continue
                out.append((pos, word, g))
        return out

    # ---- values
    def c(self, seq):
        return self.r.choice(seq)

    def syllables(self, n):
        return "".join(self.c(ONSET) + self.c(NUC) + (self.c(CODA) if i == n - 1 or self.r.random() < .3 else "")
                       for i in range(n))

    def name(self):
        x = self.r.random()
        if x < 0.45:
            return self.syllables(self.c((1, 2, 2, 2, 3))).capitalize()
        return self.c(self.names)

    def num(self):
        x = self.r.random()
        if x < .4:
            return str(self.r.randint(2, 99))
        if x < .7:
            return str(self.r.randint(100, 999))
        if x < .8:
            return f"{self.r.randint(1, 40)}.{self.r.randint(1, 9)}"
        if x < .9:
            return f"{self.r.randint(1, 90)},{self.r.randint(0, 999):03d}"
        return self.c(NUMWORD)

    def ident(self):
        w = [self.c(self.lower).lower() for _ in range(self.c((1, 2, 2, 3)))]
        s = self.r.random()
        if s < .45:
            return "_".join(w) if len(w) > 1 else w[0] + "_" + self.c("size count path mode limit name file".split())
        if s < .6:
            return "--" + "-".join(w)
        if s < .75:
            return w[0] + "".join(x.capitalize() for x in w[1:])
        if s < .9:
            return "_".join(w) + "()"
        return "_".join(w).upper()

    def noun(self, kind):
        base = THINGS if kind == "thing" else PLACES if kind == "place" else ORGS
        if kind == "thing" and self.r.random() < .3:
            return self.c(self.lower).lower()
        return self.c(base).replace("_", " ")

    def person(self):
        x = self.r.random()
        if x < .7:
            return self.name() + " " + self.name()
        if x < .8:
            return self.c(["Dr ", "Mrs ", "Mr ", "Captain ", "Professor ", "Sister "]) + self.name()
        if x < .9:
            return "the " + self.c(ROLE) + " " + self.name() + (" " + self.name() if self.r.random() < .5 else "")
        return self.name()

    def entity(self, kind):
        r = self.r.random()
        if kind == "person":
            return self.person()
        if kind == "code":
            return self.ident()
        n = self.noun(kind)
        if kind == "org":
            return ("the " + self.name() + " " + n.title()) if r < .6 else ("the " + n + " of " + self.name())
        if r < .25:
            return f"the {n} {self.c(['on', 'at', 'in', 'of', 'near'])} {self.name()}" + (" " + self.c(PLACE) if self.r.random() < .5 else "")
        if r < .45:
            return f"the {self.name()} {n}"
        if r < .7:
            return f"the {self.c(ADJ)} {n}"
        if r < .78:
            return f"the {self.c(ADJ)} {n} of {self.name()}"
        if r < .86:
            return f"the {self.noun('place')}'s {n}" if kind == "thing" else f"the {n}"
        if r < .93:
            return f"the {n} in the {self.c(ADJ)} {self.noun('place')}" if kind == "thing" else f"the {n}"
        if r < .97:
            return f"the {self.name()} {self.r.randint(2, 999)}"
        return f"the {n}"

    def value(self, t):
        r, c = self.r, self.c
        if t == "year":
            return str(r.randint(1500, 2024))
        if t == "person":
            return self.person()
        if t in UNITS:
            return self.num() + " " + c(UNITS[t])
        if t == "colour":
            return (c(["dark ", "pale ", "bright ", "light "]) if r.random() < .3 else "") + c(COLOURS)
        if t == "material":
            return c(MATERIALS) if r.random() < .6 else c(MATERIALS) + " and " + c(MATERIALS)
        if t == "time":
            return c([f"{r.randint(1, 12)} {c(['am', 'pm'])}", f"{r.randint(6, 23)}:{c(['00', '15', '30', '45'])}", f"{c(['half past', 'a quarter to'])} {c(NUMWORD[:9])}", f"{c(NUMWORD[:11])} o'clock"])
        if t == "day":
            return c([c(DAYS) + "s", c(DAYS), "the first " + c(DAYS) + " of the month"])
        if t == "money":
            return c([f"{self.num()} {c(['euros', 'pounds', 'crowns', 'dollars', 'francs', 'shillings'])}", f"${r.randint(2, 900)}"])
        if t.startswith("count"):
            k = t.split()[1]
            return self.num() + " " + (k if k != "items" else "{item}")
        if t == "where":
            x = r.random()
            if x < .3:
                return c(["behind ", "next to ", "opposite ", "below ", "above ", "in front of ", "near "]) + self.entity(c(["place", "thing"]))
            if x < .6:
                return c(["in ", "near ", "outside "]) + self.name() + (" " + c(PLACE) if r.random() < .5 else "")
            return c([f"on the {c(['first', 'second', 'third', 'top', 'ground'])} floor", f"in the {c(ADJ)} {self.noun('place')}", f"in room {r.randint(1, 400)}", f"at the end of the {c(ADJ)} corridor", f"between the {self.noun('place')} and the {self.noun('place')}"])
        if t == "interval":
            return c([f"every {self.num()} {c(UNITS['duration'][:6])}", f"once a {c(['day', 'week', 'month', 'year'])}", f"twice a {c(['day', 'week', 'month', 'year'])}", f"each {c(DAYS)}", f"after every {c(['use', 'shift', 'season', 'voyage'])}"])
        if t == "temp":
            return f"{r.randint(-40, 900)} degrees" + c(["", " Celsius"])
        if t == "purpose":
            if r.random() < .5:
                return c(PURPOSE)
            return f"{c(VERBS)} the {c(ADJ)} {c(self.lower).lower()}"
        if t == "reason":
            return c(REASON) if r.random() < .6 else f"the {self.noun('thing')} was too {c(ADJ)}"
        if t == "date":
            return f"{r.randint(1, 31)} {c(MONTHS)} {r.randint(1700, 2024)}" if r.random() < .7 else f"{c(MONTHS)} {r.randint(1, 30)}, {r.randint(1800, 2024)}"
        if t == "event":
            return c(EVENTS) if r.random() < .6 else f"the {c(ADJ)} {c(self.lower).lower()}"
        if t == "org":
            return self.entity("org")
        if t == "town":
            return self.name() + (" " + c(PLACE) if r.random() < .2 else "")
        if t == "role":
            x = c(ROLE)
            return ("an " if x[0] in VOWELS else "a ") + x
        if t == "subject":
            return c(SUBJECTS) + (" and " + c(SUBJECTS) if r.random() < .3 else "")
        if t == "title":
            return f'"{c(["The", "A", "My", "On the", "Notes on the"])} {c(ADJ).title()} {c(self.lower).title()}"'
        if t == "object":
            w = c(self.lower).lower() if r.random() < .5 else self.noun("thing")
            a = c(ADJ)
            return c([f"a {a} {w}" if a[0] not in VOWELS else f"an {a} {w}", f"{self.num()} {w}s" if not w.endswith("s") else f"the {a} {w}"])
        if t == "phone":
            return c([f"{r.randint(10, 99)} {r.randint(100, 999)} {r.randint(10, 99)}", f"extension {r.randint(100, 9999)}", f"555-{r.randint(1000, 9999)}"])
        if t == "value":
            return c([str(r.randint(0, 4096)), "true", "false", f'"{c(self.lower).lower()}"', f"0x{r.randint(16, 4095):x}", "None", f"{r.randint(1, 900)} bytes", f"{r.randint(1, 900)} ms", f"-{r.randint(1, 9)}", c(self.lower).lower()])
        if t == "exc":
            return c(["ValueError", "KeyError", "an OSError", "std::runtime_error", "IndexError", c(self.lower).title() + "Error"])
        if t == "file":
            return c(self.lower).lower() + c([".c", ".h", ".py", ".cpp", ".toml", ".json"]) if r.random() < .6 else f"{c(self.lower).lower()}/{c(self.lower).lower()}.{c(['c', 'py', 'rs'])}"
        if t == "version":
            return f"{r.randint(0, 9)}.{r.randint(0, 30)}" + (f".{r.randint(0, 9)}" if r.random() < .4 else "")
        if t == "key":
            return c([f"the {c(COLOURS)} button", f"Ctrl+{c('ABCDEFGHKLMNPQRSTX')}", f"F{r.randint(1, 12)}", f"the {c(ADJ)} lever", f"the {c(ADJ)} switch on the {c(['left', 'right', 'front', 'back'])}", "the space bar"])
        if t == "action":
            return c(ACTIONS).replace("NUM", str(r.randint(2, 90)))
        raise KeyError(t)

    # ---- facts
    def fact(self, rel, ent):
        """(statement, question forms) of a relation about an entity; several phrasings of both."""
        v = self.value(rel["val"])
        fill = dict(item=self.c(ITEMS), part=self.c(PARTS), dis=self.c(DISASTER), n=self.num(), y=str(self.r.randint(1500, 2024)))
        v = v.replace("{item}", fill["item"])
        s = self.c(rel["st"])
        qs = [q.format(E=ent, V=v, **fill) for q in rel["qs"]]
        s = s.format(E=ent, V=v, **fill)
        if not s.startswith(("`", "-", "#")) and not (ent and s.startswith(ent) and rel["kinds"] == ["code"]):
            s = s[0].upper() + s[1:]
        return s, qs

    TAILS = [", although the records disagree", " and has not changed since", ", as the annual report notes", ", according to the {role}",
             ", which surprised the {role}", " and nobody objected", ", just as {name} had promised", ", a fact that visitors often overlook",
             " (see the appendix)", ", and the {role} keeps a note of it", " for the first time", ", despite the {dis}"]
    HEADS = ["According to the {role}, ", "As far as we know, ", "In the end, ", "Today, ", "It is recorded that ", "Note that ",
             "By all accounts, ", "As {name} reported, ", "For the record, ", "Officially, "]

    def vary(self, s):
        """Adds a clause in front of or behind a plain statement."""
        f = lambda t: t.format(role=self.c(ROLE), name=self.name(), dis=self.c(DISASTER))
        if s[-1] == "." and s[0].isupper() and not s.startswith(("To ", "If ", "Press", "Use ", "New ")):
            if self.r.random() < (.15 if self.eval else .25):
                s = s[:-1] + f(self.c(self.TAILS)) + "."
            elif self.r.random() < .12:
                low = s[0].lower() + s[1:] if s.startswith(("The ", "In ", "At ", "On ", "A ")) else s
                s = f(self.c(self.HEADS)) + low
        return s

    @staticmethod
    def short_name(kind, ent):
        """How a text calls what it has named in full before; None when no other way is usual."""
        if kind in ("thing", "place") and (found := re.match(r"(the [a-z ]+?) (on|at|in|of|near) ", ent)):
            return found[1]
        return ent.split()[-1] if kind == "person" and " " in ent and ent[0].isupper() else None

    def fact_group(self, n, rels=None):
        """n facts about one entity, later ones sometimes with a pronoun; plus questions that stay unanswered."""
        rels = rels or self.relations
        kind = self.c(rels)["kinds"]
        kind = self.c(kind)
        pool = [x for x in rels if kind in x["kinds"]]
        self.r.shuffle(pool)
        vals, use, missing = set(), [], []
        for x in pool:
            key = x["qs"][0]
            if len(use) < n and key not in vals and not (x["val"] == "year" and self.r.random() < .3):
                use.append(x)
                vals.add(key)
            else:
                missing.append(x)
        ent = self.entity(kind)
        short = None if self.eval else self.short_name(kind, ent)
        units = []
        for i, x in enumerate(use):
            s, qs = self.fact(x, ent)
            if i and kind in ("thing", "place", "org") and s.lower().startswith(ent.lower() + " ") and self.r.random() < .3:
                s = "It" + s[len(ent):]
            elif i and short and self.r.random() < .3:      # the lighthouse on Skerry Point -> the lighthouse
                s = re.sub(re.escape(ent), short, s, flags=re.I)
                s = s[0].upper() + s[1:]
                qs = qs + [q.replace(ent, short) for q in qs]
            units.append(Unit(self.vary(s), qs, "fact-new" if x["held"] else "fact"))
        absent = []
        if kind != "code":
            clash = [("opened", "open "), ("built", "constructed")]
            for x in missing[:3]:
                absent += self.fact(x, ent)[1][:1]
        return units, absent, ent

    def svo(self):
        """A freely combined sentence with a transitive verb and its questions."""
        v = self.c(VERBS)
        past, part, third = inflect(v, IRREGULAR)
        subj = self.person() if self.r.random() < .5 else self.entity(self.c(["thing", "org"]))
        obj = self.entity(self.c(["thing", "place"])) if self.r.random() < .6 else "the " + (self.c(ADJ) + " " if self.r.random() < .5 else "") + self.c(self.lower).lower()
        tail, tq = self.c([("", None), ("", None), (" in " + self.value("year"), "When"), (" " + self.value("where"), "Where"),
                           (" because " + self.c(REASON), "Why"), (" with " + self.value("object"), "How")])
        who = "Who" if not subj.startswith("the ") or self.r.random() < .5 else "What"
        if self.r.random() < .5:
            s = f"{subj} {past} {obj}{tail}."
        else:
            s = f"{obj} was {part} by {subj}{tail}."
        qs = [f"{who} {past} {obj}?", f"What did {subj} {v}?", f"By whom was {obj} {part}?", f"What was {part} by {subj}?"]
        if tq:
            qs += [f"{tq} did {subj} {v} {obj}?", f"{tq} was {obj} {part}?"] * 2
        return Unit(self.vary(s[0].upper() + s[1:]), qs, "svo")

    def definition(self):
        pos, w, g = self.c(self.defs)
        art = "An" if w[0] in VOWELS else "A"
        if pos == "noun":
            s = self.c([f"{art} {w} is {g}.", f"The word {w} means {g}.", f"{w.capitalize()}: {g}."])
            return Unit(s, [f"What is {art.lower()} {w}?", f"What does {w} mean?", f"What is the meaning of {w}?", f"How is {w} defined?"], "definition")
        s = self.c([f"To {w} is to {g}.", f"The verb {w} means to {g}."])
        return Unit(s, [f"What does {w} mean?", f"What does it mean to {w}?"], "definition")

    def spec_lines(self):
        """Markdown table of data or a settings list about one device."""
        ent = self.entity("thing")
        head = f"## {ent[4:].capitalize()}" if ent.startswith("the ") else f"## {ent}"
        labels = self.r.sample([("Weight", "weight"), ("Height", "length"), ("Colour", "colour"), ("Maximum load", "weight"), ("Top speed", "speed"),
                                ("Power", "power"), ("Price", "money"), ("Built", "year"), ("Designer", "person"), ("Battery life", "duration"),
                                ("Operating temperature", "temp"), ("Width", "length"), ("Warranty", "duration"), ("Owner", "person"), ("Material", "material")], self.c((3, 4, 5)))
        style = self.c(["- {L}: {V}", "- **{L}:** {V}", "* {L}: {V}", "| {L} | {V} |", "{L}: {V}"])
        units = [Unit(head)]
        for l, t in labels:
            low = l.lower()
            units.append(Unit(style.format(L=l, V=self.value(t)), [f"What is the {low} of {ent}?", f"What is the {low}?", f"What {low} does {ent} have?"]
                              if l != "Built" else [f"When was {ent} built?"], "spec"))
        return units

    def code_lines(self):
        units = []
        for _ in range(self.c((3, 4, 5, 6))):
            i = self.ident().strip("-")
            p = self.value("purpose")
            f = i.replace("()", "").replace("-", "_")
            s = self.r.random()
            if s < .35:
                v = self.value("value")
                units.append(Unit(f"{f} = {v}  # {p}", [f"What is {f} set to?", f"What is {f} used for?", f"What is the value of {f}?", f"What is {f}?"], "code"))
            elif s < .6:
                units.append(Unit(f"def {f}({self.c(self.lower).lower()}):  # {p}", [f"What does {f} do?", f"What is the function {f} for?", f"Which function is used to {p}?"], "code"))
            elif s < .8:
                units.append(Unit(f"// {f}: {p}", [f"What does {f} do?", f"What is {f} for?"], "code"))
            else:
                units.append(Unit(f"int {f}({self.c(['int', 'char', 'void'])} {self.c(self.lower).lower()});  // {p}", [f"What does {f} do?", f"What is {f} used for?"], "code"))
        return units

    def drill(self):
        """A sentence of random vocabulary pieces: makes rare tokens findable and exactly repeatable."""
        w = []
        for _ in range(self.r.randint(3, 9)):
            x = "".join(self.c(self.pieces) for _ in range(self.c((1, 1, 1, 2))))
            w.append(x.capitalize() if self.r.random() < .2 else x)
        a, b = self.r.sample(range(len(w)), 2)
        s = " ".join(w)
        s = self.c(["{s}.", "The {s}.", "The {s}.", "A {s}.", "It {s}.", "{s} = " + self.num(), "- {s}"]).format(s=s)
        return Unit(s, [f"What is {w[a]} {w[b]}?", f"Where does {w[a]} {w[b]}?", f"What about {w[a]}?", f"Who {w[a]} the {w[b]}?"], "drill")

    # ---- questions about real sentences
    FORMS1 = ["What about {a}?", "What is said about {a}?", "What does the text say about {a}?", "How does {a} work?", "What is {a}?", "What is known about {a}?", "Tell me about {a}."]
    FORMS2 = ["What is said about {a} and {b}?", "How is {a} related to {b}?", "What does {a} have to do with {b}?", "How does {a} {b}?", "What happens to {a} with {b}?", "When does {a} {b}?",
              "Which {a} has {b}?", "Is {a} {b}?", "What {a} {b}?", "Why {a} {b}?", "Can {a} {b}?"]
    FORMS3 = ["What is said about {a}, {b} and {c}?", "How do {a} and {b} {c}?", "What does {a} {b} {c}?", "When is {a} {b} {c}?", "Where does {a} {b} {c}?", "Why does {a} {b} {c}?", "What {a} {b} {c}?",
              "Who {a} {b} {c}?", "Does {a} {b} {c}?", "How can {a} {b} {c}?", "Which {a} {b} {c}?"]

    def twist(self, w):
        """Small change of the form of a word."""
        x = self.r.random()
        if x < .75 or len(w) < 5 or not w.isalpha():
            return w
        if x < .85:
            return w.lower()
        if w.endswith("ing"):
            return w[:-3]
        if w.endswith("ed"):
            return w[:-1] if w[-3] == "e" else w[:-2]
        if w.endswith("s") and not w.endswith("ss"):
            return w[:-1]
        return w + "s" if w[-1] != "s" else w

    def ask_real(self, s, others):
        """A question from content words of s that fits s clearly better than any other sentence, or None."""
        cw = list(dict.fromkeys(content(s)))
        if len(cw) < 3:
            return None
        other = [set(map(stem, content(o))) for o in others]
        for _ in range(4):
            k = min(len(cw), self.c((2, 3, 3, 4, 4, 5)))
            i = sorted(self.r.sample(range(len(cw)), k))
            pick = [cw[j] for j in i]
            st = set(map(stem, pick))
            if max((len(st & o) for o in other), default=0) >= len(st) - (1 if len(st) > 2 else 0):
                continue
            if self.r.random() < .25:
                self.r.shuffle(pick)
            pick = [self.twist(w) for w in pick]
            # contiguous phrase variant: keep a real run of words
            x = self.r.random()
            if x < .35:
                w = s.rstrip(".!?").split()
                j = self.r.randrange(max(1, len(w) - 4))
                run = " ".join(w[j:j + self.c((3, 4, 5, 6))])
                rs = set(map(stem, content(run)))
                if len(rs) >= 2 and max((len(rs & o) for o in other), default=0) < len(rs):
                    run = run if self.r.random() < .5 else run[0].lower() + run[1:]
                    return self.c(["What about {a}?", "What is said about {a}?", "{a}?", "What does it mean that {a}?", "Why {a}?", "When {a}?", "How {a}?", "What {a}?", "Who {a}?", "Where {a}?"]).format(a=run)
            if k == 2:
                return self.c(self.FORMS2).format(a=pick[0], b=pick[1])
            if k == 3:
                return self.c(self.FORMS3).format(a=pick[0], b=pick[1], c=pick[2])
            h = self.r.randint(1, k - 2)
            return self.c(self.FORMS3).format(a=" ".join(pick[:h]), b=pick[h], c=" ".join(pick[h + 1:]))
        return None

    def real_run(self, n):
        """n consecutive real sentences."""
        i = self.r.choices(range(len(self.runs)), cum_weights=self.cum)[0]
        out = list(self.runs[i])
        while len(out) < n and i + 1 < len(self.runs):
            i += 1
            out += self.runs[i]
        j = self.r.randint(0, max(0, min(len(self.runs[i]), len(out) - n)))
        return [Unit(s, None, "real") for s in out[j:j + n] or out[:n]]

    # ---- passages and turns
    def passage(self, lo, hi):
        """(Passage, unanswerable questions) of lo to hi words (about)."""
        goal = self.r.randint(lo, hi)
        x = self.r.random()
        units, absent, sep, n = [], [], " ", 0
        if not self.eval and self.r.random() < .05:
            mode = "drill"
        elif x < .08:
            mode = "spec"
        elif x < .14:
            mode = "code"
        elif x < .50:
            mode = "facts"
        elif x < .78:
            mode = "real"
        else:
            mode = "mix"
        guard = 0
        while n < goal and guard < 60:
            guard += 1
            if mode == "spec":
                new = self.spec_lines() if self.r.random() < .6 or not units else self.fact_group(self.c((1, 2)))[0]
                sep = "\n"
            elif mode == "drill":
                new = [self.drill() for _ in range(2)]
            elif mode == "code":
                new, sep = self.code_lines(), "\n"
            elif mode == "real":
                new = self.real_run(max(1, (goal - n) // 16))
            else:
                y = self.r.random()
                if mode == "mix" and y < .5:
                    new = self.real_run(self.c((1, 2)))
                elif y < (.72 if self.eval else .66):
                    new, ab, _ = self.fact_group(self.c((1, 2, 2, 3)))
                    absent += ab
                elif y < .9:
                    new = [self.svo()]
                else:
                    new = [self.definition()]
            for u in new:
                w = len(u.text.split())
                if n and n + w > hi + 4:
                    guard = 60
                    break
                units.append(u)
                n += w
        return Passage(units, sep), absent

    def material(self, k, lo, hi, turns=8):
        """k passages and a list of (question, (passage, unit) or None)."""
        refuse = .15 if self.eval else .12
        ps, absent = [], []
        for _ in range(k):
            p, a = self.passage(lo, hi)
            ps.append(p)
            absent += a
        texts = [u.text for p in ps for u in p.units]
        where = [(i, j) for i, p in enumerate(ps) for j, u in enumerate(p.units) if texts.count(u.text) == 1]
        self.r.shuffle(where)
        everything = set(map(stem, content(" ".join(texts))))
        out = []
        for i, j in where:
            if len(out) >= turns:
                break
            if self.r.random() < refuse:
                q = self.unanswerable(absent, everything)
                if q:
                    out.append((q, None))
                    continue
            u = ps[i].units[j]
            if u.questions is None:
                q = self.ask_real(u.text, [t for t in texts if t != u.text])
            elif not u.questions:
                continue
            else:
                q = self.c(u.questions)
                if self.r.random() < .04:
                    q = q[0].lower() + q[1:].rstrip("?")
            if q and u.questions and any(v is not u and v.questions and q in v.questions for p in ps for v in p.units):
                continue
            if q and not any(q == o for o, _ in out):
                out.append((q, (i, j)))
        return ps, out

    def unanswerable(self, absent, everything):
        x = self.r.random()
        if x < .4 and absent:
            return self.c(absent)
        for _ in range(5):
            if x < .7:
                rel = self.c(self.relations)
                q = self.c(self.fact(rel, self.entity(self.c(rel["kinds"])))[1])
            elif x < .8:
                q = self.c(self.svo().questions)
            else:
                q = self.ask_real(self.real_run(1)[0].text, [])
            if q:
                st = set(map(stem, content(q)))
                if len(st - everything) >= max(1, (len(st) + 1) // 2):
                    return q
        return None


REFUSAL = "The passages do not answer this question."


class Encoder:
    """Turns exercises into token rows with loss weights and attention targets."""

    def __init__(self, path):
        from tokenizers import Tokenizer
        self.tok = Tokenizer.from_file(path)
        self.eot, self.start, self.end = (self.tok.token_to_id(s) for s in SPECIALS)
        self.raw = Tokenizer.from_str(self.tok.to_str())
        d = json.loads(self.tok.to_str())
        d["added_tokens"] = []
        self.raw = Tokenizer.from_str(json.dumps(d))  # user text: no special tokens
        v = d["model"]["vocab"]
        base = lambda t: t.lstrip("\u0120").lower()
        first = {}
        self.base = {i: first.setdefault(base(t), i) for t, i in sorted(v.items(), key=lambda x: x[1])}
        self.plain = {i for t, i in v.items() if base(t) in STOP or not base(t).isalnum() or len(base(t)) < 2}
        self.user = self.ids("user\n")
        self.assistant = self.ids("assistant\n")
        self.nl = self.ids("\n")

    def ids(self, text):
        return self.raw.encode(text).ids

    def prompt(self, passages, question):
        body = "\n\n".join(f"[{i + 1}] {p}" for i, p in enumerate(passages)) + f"\n\nQuestion: {question}"
        return [self.start] + self.user + self.ids(body) + [self.end] + self.nl + [self.start] + self.assistant

    def encode(self, passages, turns):
        """Dict of lists: ids; w = weight where the token is part of an answer, else 0; src = position whose token is copied
        (or -1); spans = (position, first, last token of the right sentence) for the positions that must choose it;
        match = (question position, position of the same word in the right sentence);
        own = (position in a sentence, first position of that sentence);
        mine = (position in a sentence, position of the number of that passage)."""
        body, at = "", []
        for i, p in enumerate(passages):
            body += f"[{i + 1}] "
            pos, spots = len(body), []
            for u in p.units:
                spots.append((pos, pos + len(u.text)))
                pos += len(u.text) + len(p.sep)
            at.append(spots)
            body += p.text + "\n\n"
        enc = self.raw.encode(body + f"Question: {turns[0][0]}")
        ids = [self.start] + self.user
        off = len(ids)
        ends = [e for _, e in enc.offsets]
        ids += enc.ids
        w, src, spans, match = [0] * len(ids), [-1] * len(ids), [], []
        own, mine = [], []
        for spots in at:
            digit = bisect.bisect_right(ends, spots[0][0] - 3) + off
            for s, e in spots:
                first, last = bisect.bisect_right(ends, s) + off, bisect.bisect_left(ends, e) + off
                own += [(z, first) for z in range(first + 1, last + 1)]
                mine += [(z, digit) for z in range(first, last + 1)]
        q0 = bisect.bisect_right(ends, len(body) + len("Question: ") - 1) + off
        for n, (q, target) in enumerate(turns):
            if n:
                head = self.nl + [self.start] + self.user
                new = head + self.ids(f"Question: {q}")
                q0 = len(ids) + len(head) + 2
                ids += new
            qend = len(ids) - 1
            ids += [self.end] + self.nl + [self.start] + self.assistant
            w += [0] * (len(ids) - len(w))
            src += [-1] * (len(ids) - len(src))
            a0 = len(ids)
            marks = []
            if target is None:
                ids += self.ids(REFUSAL) + [self.end]
                src += [-1] * (len(ids) - a0)
            else:
                i, j = target
                text = passages[i].units[j].text
                ans = self.ids(f"{text} [{i + 1}]")
                s, e = at[i][j]
                first = bisect.bisect_right(ends, s)
                last = bisect.bisect_left(ends, e)
                first, last = first + off, last + off
                m = len(self.ids(text))
                cp = [-1] * len(ans)
                if last - first + 1 == m and ids[first + 1:last + 1] == ans[1:m]:
                    cp[:m] = range(first, last + 1)
                    where = {}
                    for z in range(first, last + 1):
                        where.setdefault(self.base.get(ids[z], -1), []).append(z)
                    for z in range(q0, qend):
                        if ids[z] not in self.plain:
                            match += [(z, t) for t in where.get(self.base.get(ids[z], -2), ())]
                    spans += [(z, first, last) for z in [qend, a0 - 2, a0 - 1, a0, a0 + 1] + list(range(a0 + 2, a0 + m, 5))]
                marks = [a0 + z for z in range(m, len(ans)) if z > m and z < len(ans) - 1]
                ids += ans + [self.end]
                src += cp + [-1]
            w += [4, 4, 2] + [1] * (len(ids) - a0 - 3)
            for z in marks:
                w[z] = 5
        return dict(ids=ids, w=w, src=src, spans=spans, match=match, own=own, mine=mine)


def main():
    cmd, work = sys.argv[1], sys.argv[2]
    os.makedirs(work, exist_ok=True)
    if cmd == "corpus":
        build_corpus(work)
    elif cmd == "tokenizer":
        build_tokenizer(work)
    elif cmd == "show":
        mk = Maker(work, seed=int(sys.argv[3]) if len(sys.argv) > 3 else 0, evaluation=len(sys.argv) > 4)
        ps, turns = mk.material(4, 60, 200)
        for i, p in enumerate(ps):
            print(f"[{i + 1}] {p.text}\n")
        for q, t in turns:
            print("Q:", q, "\nA:", REFUSAL if t is None else f"{ps[t[0]].units[t[1]].text} [{t[0] + 1}]")


if __name__ == "__main__":
    main()
