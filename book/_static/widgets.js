// The Jupyter widget manager (html-manager 1.0.6) typesets formulas through MathJax 2's `MathJax.Hub`, which MathJax 3
// does not have: without this, a page with a formula and an HTML widget raises an error and its widgets stay empty.
document.addEventListener("DOMContentLoaded", () => {
  const mathjax = window.MathJax;
  if (mathjax?.startup && !mathjax.Hub) {
    mathjax.Hub = {
      Queue: ([, , element]) => mathjax.startup.promise.then(() => mathjax.typesetPromise([element])),
    };
  }
});

// Sliders come with 4.5 MB of script. A page loads it when the first of them is about to be seen, so that it can be
// read at once. bookWidgets (tools/book_site.py) says from where.
document.addEventListener("DOMContentLoaded", () => {
  const views = [...document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]')];
  const { cdn, scripts } = window.bookWidgets ?? {};
  if (!views.length || !scripts) return;
  const load = (url) => new Promise((resolve, reject) => {
    const script = document.createElement("script");
    if (cdn) script.dataset.jupyterWidgetsCdn = cdn;
    script.src = url;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`cannot load ${url}`));
    document.head.append(script);
  });
  let started = false;
  const start = () => {
    if (started) return;
    started = true;
    watch.disconnect();
    if (cdn) window.require = { baseUrl: cdn }; // from where the manager takes its fonts
    scripts.reduce((before, url) => before.then(() => load(url)), Promise.resolve()).catch((reason) => {
      for (const view of views) {
        const said = document.createElement("p");
        said.textContent = `These sliders need a script that could not be loaded (${reason.message}).`;
        view.after(said);
      }
    });
  };
  const watch = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && start(), { rootMargin: "1200px" });
  for (const view of views) watch.observe(view.parentElement);
  window.addEventListener("beforeprint", start, { once: true });
});

// A slider's handle has no name, and says the place of its choice among all choices (html-manager 1.0.6): here it gets
// the words of its label, and says what stands beside it. The ends of a range are told apart.
document.addEventListener("DOMContentLoaded", () => {
  const say = (handle, what, words) => words && handle.getAttribute(what) !== words && handle.setAttribute(what, words);
  const name = () => {
    for (const slider of document.querySelectorAll(".cell_output .widget-slider")) {
      const label = slider.querySelector(".widget-label")?.textContent.trim();
      const handles = slider.querySelectorAll('[role="slider"]');
      if (handles.length === 1) say(handles[0], "aria-valuetext", slider.querySelector(".widget-readout")?.textContent.trim());
      if (label) handles.forEach((handle, i) => say(handle, "aria-label", handles.length === 1 ? label : `${label}, ${i ? "to" : "from"}`));
    }
  };
  for (const view of document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]')) {
    new MutationObserver(name).observe(view.parentElement, { childList: true, subtree: true });
  }
});
