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
