"""The script of the page of suspected labels: decisions by key or click, kept in the browser, written to and read from CSV."""

__all__ = ["SUSPECTS_SCRIPT"]

# Texts come from the page's own elements and its block of JSON, and go into it as text alone, never as markup.
# Decisions are kept under a hash of what they are about: pages opened from files share one store.
#: The script. It holds no "<" before a "/" or a "!", which would end it or be taken for a comment.
SUSPECTS_SCRIPT = r"""
"use strict";
(() => {
  const find = (what, within = document) => within.querySelector(what);
  const data = JSON.parse(find("#about").textContent);  // key, labels, shown, texts: [[index, label, suggested], ...]
  const cards = [...document.querySelectorAll(".suspect")];
  const place = new Map(data.texts.map(([index], at) => [String(index), at]));
  let made = new Map(), past = [], now = 0, lost = false;  // made: index -> [decision, number of the new label]

  const tell = message => { find("#told").textContent = message; };
  const kept = () => JSON.stringify({made: [...made], past});
  const fits = (index, entry) => place.has(index) && Array.isArray(entry) && ["keep", "relabel", "drop"].includes(entry[0])
    && (entry[0] !== "relabel" || data.labels[entry[1]] !== undefined);
  const store = () => {
    try { localStorage.setItem(data.key, kept()); lost = false; }
    catch (error) { lost = true; }
  };
  const restore = () => {
    try {
      const held = JSON.parse(localStorage.getItem(data.key) || "{}");
      made = new Map((held.made || []).filter(([index, entry]) => fits(index, entry)));
      past = (held.past || []).filter(step => step.length && step.every(Array.isArray));
    } catch (error) { made = new Map(); past = []; }
  };

  const verdict = ([decision, label]) =>
    decision === "keep" ? "kept" : decision === "drop" ? "dropped" : "changed to " + data.shown[label];
  const draw = () => {
    const counts = {keep: 0, relabel: 0, drop: 0};
    cards.forEach((card, at) => {
      const entry = made.get(String(data.texts[at][0])), suggested = data.texts[at][2];
      const badge = find(".verdict", card), other = find("select", card);
      card.classList.toggle("decided", Boolean(entry));
      card.classList.toggle("dropped", Boolean(entry) && entry[0] === "drop");
      card.classList.toggle("now", at === now);
      badge.hidden = !entry;
      badge.textContent = entry ? verdict(entry) : "";
      const by = entry && entry[0] === "relabel" && entry[1] !== suggested ? "other" : entry && entry[0];
      for (const button of card.querySelectorAll("button[data-do]"))
        button.setAttribute("aria-pressed", String(button.dataset.do === by));
      other.value = by === "other" ? String(entry[1]) : "";
      if (entry) counts[entry[0]] += 1;
    });
    const done = made.size;
    find("#done").value = done;
    find("#progress").textContent = `${done} of ${cards.length} decided`
      + (done ? `: ${counts.keep} kept, ${counts.relabel} changed, ${counts.drop} dropped` : "")
      + (lost ? ". This browser keeps nothing: export before you close the page" : "");
    find("#undo").disabled = !past.length;
    find("#export").disabled = !done;
  };

  const go = to => {
    if (!cards.length) return;
    now = Math.max(0, Math.min(cards.length - 1, to));
    draw();
    cards[now].focus({preventScroll: true});
    cards[now].style.scrollMarginTop = `${find(".desk").offsetHeight + 12}px`;
    cards[now].scrollIntoView({block: "start"});
  };
  const open = from => {  // the next card that waits, from here round to here
    const waits = step => !made.has(String(data.texts[(from + step) % cards.length][0]));
    const step = cards.map((_, step) => step).find(waits);
    return step === undefined ? null : (from + step) % cards.length;
  };
  const change = changes => {  // [[index, entry or null], ...], remembered as one step
    past.push(changes.map(([index]) => [index, made.get(index) || null]));
    for (const [index, entry] of changes) if (entry) made.set(index, entry); else made.delete(index);
    store();
  };
  const decide = (at, decision, label, on = true) => {
    change([[String(data.texts[at][0]), [decision, label === undefined ? null : label]]]);
    const next = open(at);
    draw();
    if (next === null) tell("All decided. Export the decisions now.");
    else if (on) { tell(""); go(next); }
  };
  const undo = () => {
    const last = past.pop();
    if (!last) return tell("There is nothing to undo.");
    for (const [index, entry] of last)
      if (entry && fits(index, entry)) made.set(index, entry); else made.delete(index);
    store();
    tell("Undone.");
    go(place.has(last[0][0]) ? place.get(last[0][0]) : now);
  };
  const act = {
    keep: at => decide(at, "keep"),
    relabel: at => decide(at, "relabel", data.texts[at][2]),
    drop: at => decide(at, "drop"),
    other: at => find("select", cards[at]).focus(),
  };

  // What a spreadsheet would take for a formula gets an apostrophe, which is taken off again: captum_tracinwe.tabular.
  const formula = "(?:[\\t\\r\\n]|[\\0-\\x20\\x7f-\\xa0\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u2064\\u3000\\ufeff]*"
    + "[=+\\-@\\uff1d\\uff0b\\uff0d\\uff20])";
  const obeyed = new RegExp("^'*" + formula), harmless = new RegExp("^'+" + formula);
  const quoted = value => {
    const cell = obeyed.test(value) ? "'" + value : value;
    return /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
  };
  const meant = cell => cell !== undefined && harmless.test(cell) ? cell.slice(1) : cell;
  const written = () => ["index,label,decision,new_label", ...data.texts.flatMap(([index, label]) => {
    const entry = made.get(String(index));
    if (!entry) return [];
    const renamed = entry[0] === "relabel" ? data.labels[entry[1]] : "";
    return [[String(index), data.labels[label], entry[0], renamed].map(quoted).join(",")];
  })].join("\n") + "\n";
  const save = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([written()], {type: "text/csv"}));
    link.download = "decisions.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    tell(`${made.size} decisions exported as decisions.csv.`);
  };
  const read = text => {  // rows of fields, quoted or not
    const rows = [[""]];
    let quotes = false;
    for (let i = 0; i < text.length; i++) {
      const c = text[i], row = rows[rows.length - 1], last = row.length - 1;
      if (quotes && c === '"' && text[i + 1] === '"') { row[last] += c; i++; }
      else if (c === '"' && (quotes || row[last] === "")) quotes = !quotes;
      else if (!quotes && c === ",") row.push("");
      else if (!quotes && (c === "\n" || c === "\r")) { if (c === "\r" && text[i + 1] === "\n") i++; rows.push([""]); }
      else row[last] += c;
    }
    return rows.filter(row => row.length > 1 || row[0] !== "");
  };
  const load = text => {
    const [head, ...rows] = read(text.replace(/^\ufeff/, ""));
    if (!head || head.join() !== "index,label,decision,new_label")
      return tell("Not imported: the first line of the file is not index,label,decision,new_label.");
    const taken = new Map();
    for (const [index, given, decision, other] of rows) {
      const label = meant(given), renamed = meant(other), at = place.get(index), number = data.labels.indexOf(renamed);
      const entry = [decision, decision === "relabel" && number >= 0 ? number : null];
      if (at !== undefined && data.labels[data.texts[at][1]] === label && fits(index, entry)) taken.set(index, entry);
    }
    const left = rows.length - taken.size;
    if (taken.size) change([...taken]);
    draw();
    tell(`${taken.size} decisions imported.` + (left ? ` ${left} do not fit the texts of this page and were left out.` : ""));
  };

  for (const select of document.querySelectorAll(".suspect select")) {
    select.append(find("#labels").content.cloneNode(true));
    const own = data.texts[cards.indexOf(select.closest(".suspect"))][1];
    select.querySelector(`option[value="${own}"]`).disabled = true;
    select.addEventListener("change", () => {
      const at = cards.indexOf(select.closest(".suspect"));
      if (select.value !== "") decide(at, "relabel", Number(select.value), false);
    });
  }
  document.addEventListener("click", event => {
    const button = event.target.closest("button[data-do]");
    if (button) act[button.dataset.do](cards.indexOf(button.closest(".suspect")));
  });
  document.addEventListener("focusin", event => {
    const at = cards.indexOf(event.target.closest(".suspect"));
    if (at >= 0 && at !== now) { now = at; draw(); }
  });
  find("#undo").addEventListener("click", undo);
  find("#export").addEventListener("click", save);
  find("#import").addEventListener("click", () => find("#file").click());
  find("#file").addEventListener("change", async event => {
    const [file] = event.target.files;
    if (file) load(await file.text());
    event.target.value = "";
  });
  window.addEventListener("storage", event => { if (event.key === data.key) { restore(); draw(); } });

  const keys = {j: 1, ArrowRight: 1, ArrowDown: 1, k: -1, ArrowLeft: -1, ArrowUp: -1,
    1: "keep", 2: "relabel", 3: "drop", 4: "other"};
  document.addEventListener("keydown", event => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || !cards.length) return;
    if (event.target.closest("select, input")) {
      if (event.key === "Escape" || event.key === "Enter") { event.preventDefault(); go(now); }
      return;
    }
    // By its place where a keyboard has its digits elsewhere, as the French one.
    const digit = /^(?:Digit|Numpad)([1-4])$/.exec(event.code);
    const key = digit ? digit[1] : event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const meant = key === "u" ? "undo" : keys[key];
    if (meant === undefined) return;
    const box = cards[now].getBoundingClientRect();
    // A card longer than the window is read by the same arrows first.
    if (event.key === "ArrowDown" && box.bottom > innerHeight && box.top < innerHeight / 2) return;
    if (event.key === "ArrowUp" && box.top < 0) return;
    event.preventDefault();
    if (typeof meant === "number") return go(now + meant);
    if (event.repeat) return;
    if (meant === "undo") undo(); else act[meant](now);
  });

  restore();
  for (const part of document.querySelectorAll("[data-live]")) part.hidden = false;
  const first = cards.length ? open(0) : null;
  now = first === null ? 0 : first;
  draw();
  if (made.size) { tell("Your earlier decisions are here again."); go(now); }
})();
"""
