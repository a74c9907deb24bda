// The page of errors: of a message that is pasted, the entries whose fixed words it holds; of a few words, those that hold them.
document.addEventListener("DOMContentLoaded", () => {
  const place = document.querySelector(".refusal-search");
  if (!place) return;
  const plain = (text) => text.toLowerCase().replace(/[`'"“”‘’\\]/g, "").replace(/\s+/g, " ").trim();
  const partsOf = (text) => text.split("…").map((part) => part.trim()).filter((part) => part.length > 5);
  const length = (parts) => parts.reduce((sum, part) => sum + part.length, 0);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const entries = all(".refusals li").map((item) => {
    const text = plain(item.querySelector("code").textContent);
    return { item, text, parts: partsOf(text) };
  });
  const notes = all("section > ul > li").filter((item) => item.querySelector("strong"));
  const sections = all("section section");
  const box = document.createElement("textarea");
  box.rows = 3;
  box.placeholder = "an error message, or some words of it";
  box.setAttribute("aria-label", "Error message");
  const said = document.createElement("p");
  said.setAttribute("role", "status");
  place.append(box, said);
  // How many letters of an entry stand in what is asked, if that is most of it; those of a whole entry count for more.
  const held = (entry, asked) => {
    if (entry.text.includes(asked)) return Infinity;
    const found = length(entry.parts.filter((part) => asked.includes(part)));
    return found > 0.4 * length(entry.parts) ? found : 0;
  };
  box.addEventListener("input", () => {
    const asked = plain(box.value);
    const counts = entries.map((entry) => held(entry, asked));
    const most = Math.max(...counts);
    entries.forEach((entry, at) => { entry.item.hidden = !(counts[at] > 0 && counts[at] >= 0.8 * most); });
    notes.forEach((item) => {
      const words = [...item.querySelectorAll("strong")].map((one) => partsOf(plain(one.textContent)));
      item.hidden = Boolean(asked) && !words.some((parts) => parts.length && parts.every((part) => asked.includes(part)));
    });
    sections.forEach((section) => { section.hidden = !section.querySelector(".refusals li:not([hidden])"); });
    const found = entries.filter((entry) => !entry.item.hidden).length;
    said.textContent = asked ? `${found} of ${entries.length} messages` : "";
  });
});
