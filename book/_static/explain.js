// Finds entries of the failure index for a message that a reader pasted: on the search page, and in the box on the
// index itself. window.FAILURES is written from the catalogue when the book is built. The rules are those of
// `sana-lab explain`, as far as a page can follow them.
(() => {
  const plain = (text) =>
    text.replace(/\x1b\[[0-9;?]*[A-Za-z]/g, "").replace(/`/g, "").replace(/[\u2018\u2019]/g, "'")
      .replace(/[\u201c\u201d]/g, '"').replace(/\s+/g, " ").trim();
  const squeezed = (text) => plain(text).replace(/ /g, "");
  const same = new Map(Object.entries({ oom: "out memory", vram: "gpu memory", images: "picture", image: "picture" }));
  const spoken = (text) => text.replace(/device[s']* mismatch|mismatch\w* devices?/g, "expected all tensors same device");
  const idle = new Set("how what why when where which who do does did is are was be to the an it its my me we you i in on of \
for and or with from this that not no can get got fix solve help please error".split(" "));
  const words = (text) => {
    const all = spoken(plain(text).toLowerCase()).match(/[a-z][a-z_]+\d*[a-z]*/g) ?? [];
    const known = all.flatMap((word) => (same.get(word) ?? word).split(" ")).filter((word) => !idle.has(word));
    return new Set(known.map((word) => (word.length > 3 ? word.replace(/(?<!s)s$/, "") : word)));
  };
  const pairs = (text) => {
    const found = new Set();
    for (const run of text.match(/[\u4e00-\u9fff]+/g) ?? []) {
      for (let i = 0; i + 1 < run.length; i++) found.add(run.slice(i, i + 2));
    }
    return found;
  };
  const errorLine = /^\s*(?:[\w.]*\.)?(\w*(?:Error|Exception|Warning|Interrupt))\b\s*(?::|$)/;

  let index;
  function prepare() {
    if (index) return index;
    const often = new Map();
    const entries = (window.FAILURES ?? []).map((entry) => {
      const own = words([entry.title, ...entry.messages].join(" "));
      const about = words(entry.about);
      for (const phrase of entry.chinese ?? []) for (const pair of pairs(phrase)) own.add(pair);
      for (const word of new Set([...own, ...about])) often.set(word, (often.get(word) ?? 0) + 1);
      const made = { ...entry, own, about };
      for (const key of ["pattern", "squeezed", "wants", "wantsSqueezed", "context"]) {
        if (entry[key]) made[key] = new RegExp(entry[key]);
      }
      return made;
    });
    const weight = (word) => Math.log((entries.length + 1) / ((often.get(word) ?? 0) + 0.5));
    return (index = { entries, weight });
  }

  // The last error of a paste, with what stands before it; the whole text where no line says that it is one.
  function lastError(text) {
    const lines = text.split("\n");
    for (let i = lines.length - 1; i >= 0; i--) {
      const found = errorLine.exec(plain(lines[i]));
      if (found && !found[1].endsWith("Warning")) return [lines.slice(i).join("\n"), found[1]];
    }
    return [text, ""];
  }

  function byPattern(text, whole, name, form, key, wants) {
    const [part, all] = [form(text), form(whole)];
    const found = [];
    for (const entry of prepare().entries) {
      const hit = entry[key].exec(part);
      if (!hit || (name && entry.shows === "output")) continue;
      const there = !entry[wants] || entry[wants].test(all);
      let score = (there ? 1000 : 400) + Math.min(hit[0].length, 200) / 10 + (entry[wants] && there ? 60 : 0);
      if (entry.context) score += entry.context.test(all) ? 40 : -10;
      if (name && entry.error && !entry.error.split("|").includes(name)) score -= 8;
      found.push({ entry, score, by: there ? "message" : "part" });
    }
    return found;
  }

  function byChinese(text) {
    const asked = text.replace(/\s/g, "");
    if (!/[\u4e00-\u9fff]/.test(asked)) return [];
    return prepare().entries.flatMap((entry) => {
      const fits = (entry.chinese ?? []).filter((p) => asked.includes(p) || (asked.length > 1 && p.includes(asked)));
      const longest = Math.max(0, ...fits.map((p) => Math.min(p.length, asked.length)));
      const score = 900 + 4 * longest + 2 * fits.includes(asked) - (entry.wants ? 1 : 0);
      return longest ? [{ entry, score, by: "message" }] : [];
    });
  }

  function byWords(text) {
    const { entries, weight } = prepare();
    const asked = new Set([...words(text), ...pairs(text)]);
    const total = [...asked].reduce((sum, word) => sum + weight(word), 0);
    return entries.flatMap((entry) => {
      const worth = (word) => (entry.own.has(word) ? 1 : entry.about.has(word) ? 0.4 : 0);
      const share = [...asked].reduce((sum, word) => sum + worth(word) * weight(word), 0) / (total || 1);
      return share > 0 ? [{ entry, score: 100 * share, by: "words" }] : [];
    });
  }

  function find(text, most = 8) {
    const [part, name] = lastError(text);
    let found = byPattern(part, text, name, plain, "pattern", "wants");
    if (!found.some((f) => f.by === "message")) {
      found.push(...byPattern(part.slice(-8000), text.slice(-8000), name, squeezed, "squeezed", "wantsSqueezed"));
    }
    if (!found.length && name) found = byPattern(text, text, "", plain, "pattern", "wants").map((f) => ({ ...f, by: "part" }));
    found.push(...byChinese(text));
    const near = byWords(part);
    const nearest = new Map(near.map((f) => [f.entry.id, f.score]));
    found = found.map((f) => ({ ...f, score: f.score + (nearest.get(f.entry.id) ?? 0) / 20 }));
    found.sort((a, b) => b.score - a.score);
    near.sort((a, b) => b.score - a.score);
    const least = (near[0]?.score ?? 0) / 2;
    const all = [...found, ...near.filter((f) => f.score >= least).slice(0, found.length ? 2 : most)];
    const seen = new Set();
    return all.filter((f) => !seen.has(f.entry.id) && seen.add(f.entry.id)).slice(0, most)
      .map((f) => ({ id: f.entry.id, page: f.entry.page, title: f.entry.title, message: f.entry.messages.at(-1), by: f.by }));
  }

  const root = document.documentElement.dataset.content_root ?? "./";
  function show(box, text) {
    box.replaceChildren();
    if (!text.trim()) return;
    const found = find(text);
    const known = found.some((f) => f.by === "message");
    const head = document.createElement("p");
    head.textContent = known ? "In the failure index:" : found.length
      ? "No entry of the failure index has these words. Nearest by single words:"
      : "No entry of the failure index has any of these words. Paste the last line of the traceback, as it was printed.";
    const list = document.createElement("ul");
    for (const { id, page, title, message, by } of found) {
      const item = list.appendChild(document.createElement("li"));
      const link = item.appendChild(document.createElement("a"));
      link.href = `${root}book/failures/${page}.html#failure-${id}`;
      link.textContent = title;
      if (by === "part") item.append(" (only with more of the traceback)");
      const words = item.appendChild(document.createElement("code"));
      const lines = message.trim().split("\n");
      words.textContent = plain(lines.findLast((line) => errorLine.test(line)) ?? lines.at(-1)).slice(0, 160);
    }
    box.append(head, list);
  }

  let waiting;
  const showSoon = (box, field) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => show(box, field.value), 150);
  };

  function onSearchPage() {
    const results = document.querySelector("#search-results");
    if (!results) return;
    const box = results.parentNode.insertBefore(document.createElement("div"), results);
    box.className = "explained";
    box.setAttribute("aria-live", "polite");
    const fields = [...document.querySelectorAll("form.bd-search input[type=search], #search-input")];
    const asked = new URLSearchParams(location.search).get("q") ?? "";
    show(box, asked);
    for (const field of fields) field.addEventListener("input", () => showSoon(box, field));
  }

  // Entries stood on the index itself once, and links to them are about: the list there knows where each is now.
  function forward() {
    if (!/^#failure-[\w-]+$/.test(location.hash)) return;
    const link = document.querySelector(`.bd-article li a[href$="${location.hash}"]`);
    if (link) location.replace(link.href);
  }

  function onTheIndex() {
    const place = document.querySelector("#explain-here");
    if (!place) return;
    forward();
    window.addEventListener("hashchange", forward);
    const label = place.appendChild(document.createElement("label"));
    label.textContent = "Paste an error message or a whole traceback";
    const field = label.appendChild(document.createElement("textarea"));
    field.rows = 4;
    const box = place.appendChild(document.createElement("div"));
    box.className = "explained";
    box.setAttribute("aria-live", "polite");
    field.addEventListener("input", () => showSoon(box, field));
  }

  window.findFailures = find;
  document.addEventListener("DOMContentLoaded", () => { onSearchPage(); onTheIndex(); });
})();
