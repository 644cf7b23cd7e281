// The theme listens to the first menu button and the first contents button of a page. These are in its top bar, which
// theme.css hides; the ones that a reader sees, above the article, have no listener. So a click is passed on.
document.addEventListener("DOMContentLoaded", () => {
  for (const which of [".primary-toggle", ".secondary-toggle"]) {
    const hidden = document.querySelector(`#pst-header ${which}`);
    for (const shown of document.querySelectorAll(`.bd-header-article ${which}`)) {
      shown.addEventListener("click", () => hidden?.click());
    }
  }
});

// Paper is white and cannot be clicked: before printing, the light scheme and everything folded open.
{
  let before;
  window.addEventListener("beforeprint", () => {
    const root = document.documentElement;
    before = { theme: root.dataset.theme, closed: [...document.querySelectorAll("details:not([open])")] };
    root.dataset.theme = "light";
    for (const details of before.closed) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    if (!before) return;
    document.documentElement.dataset.theme = before.theme;
    for (const details of before.closed) details.open = false;
    before = undefined;
  });
}

// Names for controls that come without one, so that a screen reader says what a reader sees (tests/site/test_axe.py).
document.addEventListener("DOMContentLoaded", () => {
  for (const button of document.querySelectorAll(".search-button-field, .theme-switch-button, details.hide > summary")) {
    button.removeAttribute("aria-label"); // its visible words are its name
  }
  for (const button of document.querySelectorAll(".theme-switch-button")) {
    button.setAttribute("aria-label", "Color mode: Light, Dark, System Settings"); // has the title of the icon shown
  }
  for (const corner of document.querySelectorAll("table th")) {
    if (!corner.textContent.trim()) corner.replaceWith(Object.assign(document.createElement("td"), { innerHTML: "" }));
  }
  for (const summary of document.querySelectorAll("li.has-children > details > summary")) {
    summary.setAttribute("aria-label", `Pages of: ${summary.closest("li").querySelector("a").textContent.trim()}`);
  }
  const sidebar = document.querySelector("#pst-primary-sidebar");
  if (sidebar && !sidebar.hasAttribute("role")) {
    sidebar.setAttribute("role", "navigation");
    sidebar.setAttribute("aria-label", "The book");
  }
});
