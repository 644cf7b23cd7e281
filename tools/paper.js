// The pages of the site as one document that needs no clicks: tools/paper.py prints it, and takes it apart for an EPUB.
// Each page becomes <section class="page" id="its-name">, and its ids get that name in front.
const MATHML = "http://www.w3.org/1998/Math/MathML";
const wrong = [];

// ---- gather: pages = [{file: "book/intro", id: "intro", title: "...", part: "..."}, ...] ----------------------------

async function gather(pages) {
  const places = new Map(pages.map((page) => [new URL(`/${page.file}.html`, location).pathname, page]));
  const main = document.querySelector("main");
  for (const page of pages) {
    const url = new URL(`/${page.file}.html`, location);
    const answer = await fetch(url);
    if (!answer.ok) { wrong.push(`${page.file}: is not on the site (${answer.status})`); continue; }
    const there = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const state of there.querySelectorAll('script[type="application/vnd.jupyter.widget-state+json"]')) {
      document.head.append(document.importNode(state, true));
    }
    const section = document.createElement("section");
    section.className = "page";
    section.dataset.file = page.file;
    section.append(...[...there.querySelector("article.bd-article").children].map((e) => document.importNode(e, true)));
    for (const e of section.querySelectorAll(LEFT_OUT)) e.remove();
    for (const e of section.querySelectorAll("[src]")) e.src = new URL(e.getAttribute("src"), url).href;
    openFolded(section);
    rename(section, page, url, places);
    main.append(section);
    page.title = section.querySelector("h1")?.textContent.trim() ?? page.file;
  }
  for (const link of document.querySelectorAll("main a[href^='#']")) {
    if (!document.getElementById(link.getAttribute("href").slice(1))) {
      wrong.push(`${link.closest(".page").id}: a link to ${link.getAttribute("href")}, which is nowhere`);
    }
  }
  return pages;
}

const headings = () => [...document.querySelectorAll("main > .page")].map((page) =>
  [...page.querySelectorAll("section > h2")].map((h) => [h.parentElement.id, h.textContent.trim()]));

const LEFT_OUT = "button, .headerlink, .only-dark, #explain-here, noscript, svg.sd-octicon, .toctree-wrapper, nav, " +
  "script:not([type='application/vnd.jupyter.widget-view+json']), .on-screen";

// Nothing unfolds on paper: code that was folded is shown, and what has a title of its own keeps it.
function openFolded(section) {
  for (const details of [...section.querySelectorAll("details")].reverse()) {
    const summary = details.querySelector(":scope > summary");
    const opened = document.createElement("div");
    opened.className = "folded";
    if (summary && !details.classList.contains("hide")) {
      const title = Object.assign(document.createElement("p"), { className: "summary" });
      title.append(...summary.childNodes);
      opened.append(title);
    }
    summary?.remove();
    opened.append(...details.childNodes);
    details.replaceWith(opened);
  }
}

function rename(section, page, url, places) {
  const own = (id) => `${page.id}--${id.replace(/[^\w.-]/g, "-")}`;
  for (const link of section.querySelectorAll("a[href]")) {
    const to = new URL(link.getAttribute("href"), url);
    const target = to.origin === location.origin ? places.get(to.pathname) : undefined;
    if (target) {
      const place = decodeURIComponent(to.hash.slice(1)).replace(/[^\w.-]/g, "-");
      link.setAttribute("href", `#${target.id}${place ? `--${place}` : ""}`);
    } else if (to.origin === location.origin || !/^(https?|mailto):$/.test(to.protocol)) {
      link.replaceWith(...link.childNodes); // a file beside the site
    }
  }
  const seen = new Set();
  for (const e of section.querySelectorAll("[id]")) {
    if (seen.has(e.id)) e.removeAttribute("id");
    else { seen.add(e.id); e.id = own(e.id); }
  }
  for (const style of section.querySelectorAll("style")) {
    style.removeAttribute("scoped");
    const scope = /\.bd-article|#T_/.test(style.textContent) ? "" : `#${page.id} `;
    style.textContent = style.textContent.replaceAll(".bd-article", `#${page.id}`).replaceAll("#T_", `#${page.id}--T_`);
    if (scope && !/[@]|html\[/.test(style.textContent)) {
      style.textContent = style.textContent.replace(/(^|\})\s*([^{}]+)\{/g, (_, end, names) =>
        `${end}\n${names.split(",").map((name) => scope + name.trim()).join(", ")} {`);
    }
  }
  for (const e of section.querySelectorAll("*")) {
    for (const { name } of [...e.attributes]) {
      if (/^(aria-|data-|on)/.test(name) || OBSOLETE.has(name) || (name === "role" && e.localName !== "section")) {
        e.removeAttribute(name);
      }
    }
  }
  section.id = page.id;
}
const OBSOLETE = new Set(["border", "align", "valign", "halign", "tabindex", "download", "target", "title", "frame", "rules"]);

// ---- formulas and sliders ----------------------------------------------------------------------------------------

const load = (url, data = {}) => new Promise((resolve, reject) => {
  const script = Object.assign(document.createElement("script"), { src: url, onload: resolve });
  script.onerror = () => reject(new Error(`cannot load ${url}`));
  Object.assign(script.dataset, data);
  document.head.append(script);
});

async function typeset(url) {
  const all = document.querySelectorAll("span.math, div.math");
  if (!all.length) return;
  window.MathJax = { options: { processHtmlClass: "math", ignoreHtmlClass: "page", enableMenu: false } };
  await load(url);
  await MathJax.startup.promise;
  for (const e of all) {
    if (!e.querySelector("mjx-container") || e.querySelector("mjx-merror")) {
      wrong.push(`${e.closest(".page").id}: a formula is not set: ${e.textContent.slice(0, 80)}`);
    }
  }
}

// A widget shows the state in which its page opens; a line says where it can be moved.
async function drawWidgets(scripts, cdn) {
  const views = [...document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]')];
  if (!views.length) return;
  window.require = { baseUrl: cdn };
  for (const url of scripts) await load(url, { jupyterWidgetsCdn: cdn });
  const drawn = () => document.querySelectorAll("main .cell_output .jupyter-widgets.widget-container");
  for (let i = 0; i < 300 && views.some((view) => !view.parentElement.querySelector(".jupyter-widgets")); i++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await new Promise((resolve) => setTimeout(resolve, 1500));
  for (const view of views) {
    const place = view.parentElement;
    if (!place.querySelector(".jupyter-widgets")) wrong.push(`${view.closest(".page").id}: a slider is not drawn`);
    const still = document.createElement("div");
    still.className = "still";
    const said = [];
    for (const control of place.querySelectorAll(".widget-slider, .widget-dropdown, .widget-toggle-buttons, .widget-checkbox")) {
      if (!control.checkVisibility()) continue;
      const name = control.querySelector(".widget-label")?.textContent.trim() ?? "";
      const value = control.querySelector(".widget-readout")?.textContent.trim() ??
        control.querySelector("select")?.selectedOptions[0]?.textContent.trim() ?? "";
      said.push(`${name.replace(/:$/, "")}: ${value}`);
    }
    const line = Object.assign(document.createElement("p"), { className: "controls" });
    line.textContent = `${said.join(" · ")} (on the site and in the notebook this can be moved)`;
    still.append(line);
    for (const shown of place.querySelectorAll(".widget-html-content")) {
      if (shown.checkVisibility()) still.append(...shown.childNodes);
    }
    if (!said.length || still.childElementCount < 2) wrong.push(`${view.closest(".page").id}: a slider shows nothing`);
    place.replaceChildren(still);
  }
}

async function pictures() {
  await document.fonts.ready;
  await Promise.all([...document.images].map((image) => image.decode().catch(() => wrong.push(`no ${image.src}`))));
}

// ---- on paper -------------------------------------------------------------------------------------------------------

// What is wider than a page is made smaller, as a whole; what would have to be tiny is told.
function fit(least) {
  const room = document.querySelector("main").getBoundingClientRect().width;
  for (const e of document.querySelectorAll("main table, main mjx-container[display='true'], main svg")) {
    if (e.parentElement.closest("table, svg, mjx-container")) continue;
    const box = e.closest("li, .admonition, .folded, .still, dd") ?? e.closest(".page");
    const style = getComputedStyle(box);
    const have = Math.min(room, box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
    const wide = Math.max(e.scrollWidth, e.getBoundingClientRect().width);
    if (wide <= have + 1) continue;
    const by = Math.floor((1000 * have) / wide) / 1000;
    e.style.zoom = by;
    if (by < least) wrong.push(`${e.closest(".page").id}: ${e.localName} only at ${Math.round(100 * by)} % of its size`);
  }
  for (const table of document.querySelectorAll("main table")) {
    if (table.offsetHeight < 330) table.classList.add("small"); // a third of a sheet: it stays in one piece
  }
  const right = document.querySelector("main").getBoundingClientRect().right;
  for (const e of document.querySelectorAll("main *")) {
    if (e.getBoundingClientRect().right > right + 2 && !e.closest("svg, mjx-container, table")) {
      wrong.push(`${e.closest(".page")?.id}: ${e.localName}.${e.className} is cut at the right`);
    }
  }
}

// The number of its sheet behind each line of the contents; returns the lines that have none.
function number(at) {
  return [...document.querySelectorAll(".contents a")].filter((line) => {
    line.dataset.at = at[line.getAttribute("href").slice(1)] ?? "";
    return !line.dataset.at;
  }).map((line) => line.textContent);
}

// ---- for readers of books ---------------------------------------------------------------------------------------------

function toMathML() {
  for (const item of window.MathJax?.startup?.document?.math ?? []) {
    const made = new DOMParser().parseFromString(MathJax.startup.toMML(item.root), "text/xml").documentElement;
    for (const e of [made, ...made.querySelectorAll("*")]) {
      for (const { name } of [...e.attributes]) if (name.startsWith("data-") || name === "class") e.removeAttribute(name);
    }
    made.setAttribute("alttext", item.math.trim());
    item.typesetRoot.replaceWith(document.importNode(made, true));
  }
}

function parts() {
  toMathML();
  const still = document.implementation.createHTMLDocument(); // asks for no picture when its address is changed
  return [...document.querySelectorAll("main > .page")].map((shown) => {
    const section = still.importNode(shown, true);
    const styles = [...section.querySelectorAll("style")].map((style) => (style.remove(), style.textContent));
    for (const e of section.querySelectorAll("svg")) e.removeAttribute("style");
    for (const link of section.querySelectorAll("a[href^='#']")) {
      const target = document.getElementById(link.getAttribute("href").slice(1));
      const page = target?.closest(".page");
      if (page && page !== shown) link.setAttribute("href", `${page.id}.xhtml${target === page ? "" : `#${target.id}`}`);
    }
    const images = [...section.querySelectorAll("img")].map((img) => {
      const from = new URL(img.getAttribute("src")).pathname;
      img.setAttribute("src", `images/${from.split("/").at(-1)}`);
      if (!img.hasAttribute("alt")) img.setAttribute("alt", "");
      return from;
    });
    const headings = [...section.querySelectorAll("h2")].map((h) => [h.closest("section")?.id ?? "", h.textContent.trim()]);
    const text = new XMLSerializer().serializeToString(section).replace(/[\x00-\x08\x0b\x0c\x0e-\x1f]/g, "");
    const used = ["math", "svg"].filter((name) => section.querySelector(name));
    return { id: section.id, text, styles, images, headings, used };
  });
}
