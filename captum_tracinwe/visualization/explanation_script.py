"""The script of the page of an explanation: search, filters, words that lead to their texts, lists by parts, export as CSV."""

__all__ = ["EXPLANATION_SCRIPT"]

# Texts come from the page's own elements and go into it as text alone, never as markup. What is searched is put together after
# the page has opened, while nobody waits, or when it is first asked for. What is not in sight is out of the
# document, which then has thousands of elements to lay out and not hundreds of thousands.
# A word is what words/characters.py takes for one: `joined` says where two characters are of one word.
#: The script. It holds no "<" before a "/" or a "!", which would end it or be taken for a comment.
EXPLANATION_SCRIPT = r"""
"use strict";
(() => {
  const STEP = innerWidth > 700 ? 25 : 10;
  const find = (what, within = document) => within.querySelector(what);
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const plain = text => text.normalize("NFC").toLowerCase();
  const list = name => find(`[data-list=${name}]`);
  const lists = ["answers", "right", "near", "training"].filter(list)
    .map(name => ({name, at: list(name), items: [...list(name).children], most: STEP, also: null}));
  const rows = new Map(), cards = new Map();
  for (const part of lists) for (const item of part.items)
    (part.name === "training" ? rows : cards).set(item.id, item);
  const partOf = new Map(lists.flatMap(part => part.items.map(item => [item.id, part])));

  // ------------------------------------------------------------------ what can be searched
  const textOf = item => find(item.matches(".answer") ? ":scope > .said > .text" : ":scope > .text", item);
  const own = (item, read = false) => {  // the text of a row or a card, whole; or what the model read of it
    const text = textOf(item);
    return text ? inner(text, read) : "";
  };
  const inner = (node, read) => [...node.childNodes].map(one => piece(one, read)).join("");
  const piece = (node, read) => node.nodeType !== 1 ? node.textContent
    : node.matches(".cut") ? (read ? "" : node.textContent)
    : node.matches(".fold") ? inner(node.firstChild.firstChild, read) + inner(node.lastChild, read)  // without what is clicked on
    : node.textContent;
  // Of a text all characters, and those that the model read: a word counts in these alone.
  const both = item => {
    const text = textOf(item), whole = plain(own(item));
    return [whole, text && find(".cut", text) ? plain(own(item, true)) : whole];
  };
  const held = new Map();  // row, card or text of a pair -> [what is searched, texts that may hold a word, whole text]
  const inside = item => {
    if (held.has(item)) return held.get(item);
    let found;
    if (item.matches(".group")) found = join(all("li[data-t]", item).map(of => rows.get("t" + of.dataset.t)));
    else if (item.matches(".answer")) {
      const taught = all(".pair", item).map(of => rows.get("t" + of.dataset.t) || of);
      const mine = all("summary .where, summary .turn", item).map(one => one.textContent);
      const [whole, read] = both(item), said = plain(mine.join("\n"));  // by places and labels of its own alone
      const others = taught.map(inside);
      found = [[said, whole, ...others.map(one => one[2])].join("\n"), [read, ...others.map(one => one[1])].join("\n")];
    } else {
      const said = all(":scope > .row > .where, :scope > .row > .tag", item).map(one => one.textContent);
      const [whole, read] = both(item);
      found = [plain(said.join("\n")) + "\n" + whole, read, whole];
    }
    found[0].includes("\0");  // a string made of others is put together when it is first searched
    held.set(item, found);
    return found;
  };
  const join = items => {
    const found = items.filter(Boolean).map(inside);
    return [found.map(one => one[0]).join("\n"), found.map(one => one[1]).join("\n")];
  };

  const letter = /[\p{L}\p{N}\p{M}_]/u, alone = /\p{L}/u, digit = /\p{N}/u, extends_ = /[\p{M}\p{Cf}]/u;
  const scripts = ["Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar"];
  const unspaced = new RegExp(`[${scripts.map(name => `\\p{Script=${name}}`).join("")}]`, "u");
  const before = (text, at) => at > 0 ? String.fromCodePoint(text.codePointAt(
    at > 1 && /[\udc00-\udfff]/.test(text[at - 1]) && /[\ud800-\udbff]/.test(text[at - 2]) ? at - 2 : at - 1)) : "";
  const after = (text, at) => at < text.length ? String.fromCodePoint(text.codePointAt(at)) : "";
  const joined = (text, at) => {
    const a = before(text, at), b = after(text, at);
    if (!a || !b || /\s/u.test(a) || /\s/u.test(b)) return false;
    if (extends_.test(b)) return true;
    if (unspaced.test(a) || unspaced.test(b)) return false;
    if (letter.test(a) && letter.test(b)) return true;
    const two = at + b.length, back = before(text, at - a.length), next = after(text, two);
    if ("'’".includes(b)) return alone.test(a) && alone.test(next);
    if ("'’".includes(a)) return alone.test(back) && alone.test(b);
    if (".,".includes(b) && digit.test(a) && digit.test(next)) return true;
    if (".,".includes(a) && digit.test(back) && digit.test(b)) return true;
    return a === b && !letter.test(a);
  };
  const places = function* (text, word) {
    for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + 1))
      if (!joined(text, at) && !joined(text, at + word.length)) yield at;
  };
  const holds = (text, word) => !places(text, word).next().done;
  const paint = word => {  // the word in the texts that are shown, where the browser can; the elements stay as they are
    if (!window.CSS || !CSS.highlights) return;
    const ranges = [];
    for (const part of word ? lists : []) for (const item of [...part.at.children].slice(0, 4 * STEP)) {
      const nodes = document.createTreeWalker(item, NodeFilter.SHOW_TEXT);
      for (let node = nodes.nextNode(); node; node = nodes.nextNode()) {
        const text = plain(node.data);  // of another length are few, and not painted
        if (text.length !== node.data.length || !text.includes(word) || !node.parentNode.closest(".text, .start")) continue;
        if (node.parentNode.closest(".cut")) continue;
        for (const at of places(text, word))
          ranges.push(new StaticRange({startContainer: node, startOffset: at, endContainer: node, endOffset: at + word.length}));
      }
    }
    CSS.highlights.set("sought", new Highlight(...ranges));
  };

  // ------------------------------------------------------------------ filters
  const asked = {search: find("#search"), label: find("#label"), prediction: find("#prediction"), word: find("#word")};
  let painted = "";  // the word that is chosen
  const fits = (item, part, terms, word) => {
    const {label, prediction} = asked;
    if (part.name === "near") {
      if (label.value && !all("li[data-t]", item).some(of => (rows.get("t" + of.dataset.t) || of).dataset.l === label.value))
        return false;
    } else {
      if (label.value && item.dataset.l !== label.value) return false;
      if (prediction.value && item.dataset.p !== undefined && item.dataset.p !== prediction.value) return false;
    }
    if (!terms.length && !word) return true;
    const [text, words] = inside(item);
    return terms.every(term => text.includes(term)) && (!word || holds(words, word));
  };
  const show = part => {
    const shown = part.found.slice(0, part.most);
    if (part.also && !shown.includes(part.also)) shown.unshift(part.also);
    if (shown.length !== part.at.children.length || shown.some((item, at) => item !== part.at.children[at]))
      part.at.replaceChildren(...shown);
    const left = part.found.length - Math.min(part.found.length, part.most);
    part.more[0].hidden = part.more[1].hidden = !left;
    part.more[0].textContent = `Show ${Math.min(STEP, left)} more`;
    part.more[1].textContent = `Show all ${part.found.length.toLocaleString("en")}`;
    part.none.hidden = part.found.length > 0;
    if (painted) paint(painted);
  };
  const filter = () => {
    const terms = plain(asked.search.value).split(/\s+/u).filter(Boolean), word = plain(asked.word.value);
    painted = "";
    for (const part of lists) {
      part.most = STEP;
      part.also = null;
      part.found = part.items.filter(item => fits(item, part, terms, word));
      show(part);
    }
    const chosen = [asked.label, asked.prediction, asked.word].filter(one => one.value);
    find("#filters").textContent = chosen.length ? `Filters: ${chosen.length}` : "Filters";
    for (const one of chosen) one.title = one.selectedOptions[0].textContent;  // a long name is cut in its box
    painted = word;
    paint(word);
    tell(terms.length || chosen.length);
  };
  const tell = filtered => {
    const kinds = {answers: "mistakes", right: "right answers", near: "groups of near-duplicates", training: "training texts"};
    const many = items => items.length.toLocaleString("en");
    find("#clear").hidden = !filtered;
    const status = find("#status");
    status.hidden = !filtered;
    const link = (id, text) => {
      const made = document.createElement("a");
      made.href = "#" + id;
      made.textContent = text;
      return made;
    };
    const row = filtered && asked.word.value && table.get(plain(asked.word.value));
    const said = lists.map(part => link(part.name, `${many(part.found)} of ${many(part.items)} ${kinds[part.name]}`));
    if (row) said.push(link(row.id, "the word in its table"));
    status.replaceChildren(...filtered ? ["Shown: ", ...said.flatMap((one, at) => at ? [" · ", one] : [one])] : []);
    if (row) status.lastChild.before(...ofWord(asked.word.value), " · ");
    else if (asked.word.value) status.append(" · ", ...ofWord(asked.word.value));
    for (const button of all("[data-export]")) offer(button, filtered);
  };
  const texts = new Map();  // word -> how many of all training texts hold it
  const ofWord = word => {  // "12 of the 40 training texts with “card” are on this page"
    const shown = document.createElement("bdi"), many = texts.get(plain(word));
    shown.textContent = `“${word}”`;
    const here = [...rows.values()].filter(row => holds(inside(row)[1], plain(word))).length;
    const number = value => value.toLocaleString("en");
    const row = table.get(plain(word)), apart = row ? Number(row.dataset.n) : many;  // near-duplicates counted once
    const once = apart < many ? ` (${number(apart)} without near-duplicates)` : "";
    if (!many || here > many) return [`${number(here)} training texts on this page with `, shown];
    if (here === many) return [many > 1 ? `All ${number(many)} training texts with ` : "The one training text with ", shown,
      many > 1 ? " are on this page" : " is on this page", once];
    return [`${number(here)} of the ${number(many)} training texts with `, shown,
      ` ${here === 1 ? "is" : "are"} on this page${once}`];
  };
  const named = link => link.dataset.w || link.textContent;
  const table = new Map();  // word -> its row
  const choose = word => {
    const options = [...asked.word.options];
    let option = options.find(one => plain(one.value) === plain(word));
    if (!option) {
      option = new Option(word, word);
      asked.word.append(option);
    }
    asked.word.value = option.value;
    filter();
  };
  const clear = () => {
    for (const one of Object.values(asked)) one.value = "";
    filter();
  };

  // ------------------------------------------------------------------ links
  const reveal = id => {  // a row, a card or a group, wherever it is
    const item = rows.get(id) || cards.get(id), part = partOf.get(id);
    if (!item) return null;
    if (!part.found.slice(0, part.most).includes(item)) { part.also = item; show(part); }
    if (item.matches("details")) item.open = true;
    return item;
  };
  // What is jumped to stands below the desk, which covers the window's top.
  const cover = () => {
    document.documentElement.style.scrollPaddingTop = `${find(".desk").offsetHeight + 8}px`;
  };
  const land = section => {
    const heading = find("h2", section);
    heading.tabIndex = -1;
    cover();
    section.scrollIntoView({block: "start"});
    heading.focus({preventScroll: true});
  };
  const go = () => {
    const id = decodeURIComponent(location.hash.slice(1)), folded = document.getElementById(id)?.closest("details.more");
    if (folded) folded.open = true;
    const item = reveal(id) || (folded && document.getElementById(id));
    for (const one of all(".here")) one.classList.remove("here");
    if (!item) return;
    cover();
    item.classList.add("here");
    item.tabIndex = -1;
    item.scrollIntoView({block: "start"});
    (find("summary", item) && item.matches("details") ? find("summary", item) : item).focus({preventScroll: true});
  };
  document.addEventListener("click", event => {
    const word = event.target.closest("a.w");
    if (word) {
      event.preventDefault();
      choose(named(word));
      const first = [...lists].reverse().find(part => part.found.length);  // training texts, where there are any
      if (first) land(first.at.closest("section"));
      return;
    }
    const link = event.target.closest("a[href^='#']");
    if (!link) return;
    const id = link.hash.slice(1);
    if (location.hash === link.hash) go(); else reveal(id);
  });
  window.addEventListener("hashchange", go);
  document.addEventListener("toggle", event => {  // the texts of a group stand with the training texts already
    const group = event.target;
    if (!group.matches(".group") || !group.open || group.dataset.whole) return;
    group.dataset.whole = "yes";
    for (const of of all("li[data-t]", group)) {
      const row = rows.get("t" + of.dataset.t), text = document.createElement("span");
      if (!row) continue;
      text.className = "start";
      text.dir = "auto";
      text.textContent = own(row);
      const old = find(".start", of);
      if (old) old.replaceWith(text); else of.append(text);
    }
  }, true);

  // ------------------------------------------------------------------ export
  // What a spreadsheet would take for a formula gets an apostrophe, which captum_tracinwe.tabular.as_meant takes off again.
  const blank = "[\\0-\\x20\\x7f-\\xa0\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u2064\\u3000\\ufeff]*";
  const formula = new RegExp(`^'*(?:[\\t\\r\\n]|${blank}[=+\\-@\\uff1d\\uff0b\\uff0d\\uff20])`);
  const cell = value => {
    const text = typeof value === "number" ? String(value) : formula.test(value) ? "'" + value : value;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const written = lines => "\ufeff" + lines.map(line => line.map(cell).join(",")).join("\r\n") + "\r\n";
  const read = (what, within) => { const one = find(what, within); return one ? one.textContent : ""; };
  const names = new Map([...asked.label.options].map(option => [option.value, option.textContent]));
  const number = text => text === undefined ? "" : Number(text);
  const nouns = {mistakes: list("right") ? "answer" : "mistake", words: "word", duplicates: "group"};
  const sources = {mistakes: ["answers", "right"], duplicates: ["near"]};
  const offer = (button, filtered) => {  // says what it exports: of lists that are filtered what is shown, also below "more"
    const what = button.dataset.export, from = lists.filter(part => (sources[what] || []).includes(part.name));
    const many = from.length ? from.reduce((sum, part) => sum + part.found.length, 0) : all("table.words tr[data-s]").length;
    const noun = nouns[what] + (many === 1 ? "" : "s"), number = many.toLocaleString("en");
    button.disabled = !many;
    button.textContent = !many ? "Nothing shown to export"
      : from.length && filtered ? `Export the ${number} ${noun} shown as CSV`
      : many === 1 ? `Export the ${noun} as CSV` : `Export all ${number} ${noun} as CSV`;
  };
  const sheets = {
    mistakes: () => {
      const lines = [["test place", "label", "prediction", "probability", "pushed", "rank", "score", "training place",
        "training label", "nearly the same", "test text", "training text"]];
      for (const part of lists.filter(one => one.name === "answers" || one.name === "right")) for (const item of part.found) {
        const mine = [read("summary .where", item), names.get(item.dataset.l), names.get(item.dataset.p), number(item.dataset.s)];
        const ranks = {towards: 0, away: 0};
        const pairs = all(".pair", item);
        for (const of of pairs) {
          const way = Number(of.dataset.s) > 0 ? "towards" : "away", row = rows.get("t" + of.dataset.t);
          lines.push([...mine, way, ++ranks[way], number(of.dataset.s), read(".where", of), read(".tag b", of),
            Number((/[\d,]+/.exec(read(".like", of)) || ["0"])[0].replaceAll(",", "")), own(item), row ? own(row) : own(of)]);
        }
        if (!pairs.length) lines.push([...mine, "", "", "", "", "", "", own(item), ""]);
      }
      return lines;
    },
    words: () => [["found", "word", "goes with", "share of its texts", "share of all texts", "texts", "p", "push", "read it in"],
      ...all("table.words").flatMap(of => all("tr[data-s]", of).map(row => [
        of.dataset.kind === "h" ? "goes with one class" : "behind the mistakes", named(find(".w", row)),
        read("td:nth-child(2)", row), number(row.dataset.c), number(row.dataset.b),
        number(row.dataset.n), number(row.dataset.pv), number(row.dataset.s),
        read("td:nth-child(7)", row)]))],
    duplicates: () => [["group", "training place", "label", "different labels", "training text"],
      ...lists.filter(part => part.name === "near").flatMap(part => part.found.flatMap((group, at) =>
        all("li", group).map(of => [at + 1, read(".where", of), read(".tag", of), find(".odds", group) ? "yes" : "no",
          of.dataset.t && rows.has("t" + of.dataset.t) ? own(rows.get("t" + of.dataset.t)) : read(".start", of)])))],
  };
  const save = what => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([written(sheets[what]())], {type: "text/csv"}));
    link.download = `${what}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };

  // ------------------------------------------------------------------ begin
  for (const part of lists) {
    part.found = part.items;
    part.more = [STEP, Infinity].map(many => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "more-of";
      button.addEventListener("click", () => { part.most += many; show(part); });
      return button;
    });
    part.none = document.createElement("p");
    part.none.className = "none";
    part.none.textContent = "None fits the search and the filters.";
    part.at.after(part.none, ...part.more);
  }
  for (const word of all("a.w[data-n]")) texts.set(plain(named(word)), Number(word.dataset.n));
  for (const row of all("table.words tr[id]")) {
    const word = named(find(".w", row));
    if (!table.has(plain(word))) { table.set(plain(word), row); asked.word.append(new Option(word, word)); }
  }
  for (const word of all("a.w")) if (!word.hasAttribute("href")) { word.tabIndex = 0; word.setAttribute("role", "button"); }
  document.addEventListener("keydown", event => {
    if (event.key === "Enter" && event.target.matches("a.w:not([href])")) event.target.click();
    if (event.key === "Escape" && event.target === asked.search && asked.search.value) { asked.search.value = ""; filter(); }
    if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey && !event.target.closest("input, select")) {
      event.preventDefault();
      asked.search.focus();
    }
  });
  asked.search.addEventListener("input", filter);
  for (const name of ["label", "prediction", "word"]) asked[name].addEventListener("change", filter);
  find("#clear").addEventListener("click", clear);
  find("#filters").addEventListener("click", event => {
    const open = find(".desk").classList.toggle("open");
    event.target.setAttribute("aria-expanded", open);
  });
  for (const button of all("[data-export]")) button.addEventListener("click", () => save(button.dataset.export));
  const prepare = deadline => {  // what is searched, while nobody waits
    for (; waiting.length && deadline.timeRemaining() > 2; waiting.pop()) inside(waiting[waiting.length - 1]);
    if (waiting.length) later(prepare);
  };
  const later = window.requestIdleCallback || (then => setTimeout(then, 50, {timeRemaining: () => 50}));
  const waiting = lists.flatMap(part => part.items);
  later(prepare);
  for (const one of all("[data-live]")) one.hidden = false;
  document.body.classList.add("run");
  filter();
  new ResizeObserver(cover).observe(find(".desk"));
  if (location.hash) go();
})();
"""
