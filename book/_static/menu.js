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
