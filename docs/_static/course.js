/* Menu buttons, enlarged figures, and search results of the course's pages. */

/* The theme listens to the first button of each kind only, and that one is hidden. */
function mendToggles() {
  for (const kind of ["primary", "secondary"]) {
    const [first, ...others] = document.querySelectorAll(`.${kind}-toggle`);
    for (const other of others) other.addEventListener("click", () => first.click());
  }
}

/* A click on a figure, or Enter, shows it as large as the window; Escape or another click closes it. */
function enlargeFigures() {
  const box = document.createElement("dialog");
  box.className = "ep-lightbox";
  box.innerHTML = '<button type="button" aria-label="Close">✕</button><div><img alt=""></div><p></p>';
  document.body.append(box);
  const [picture, words] = [box.querySelector("img"), box.querySelector("p")];
  box.addEventListener("click", (event) => {
    if (event.target === picture) box.classList.toggle("natural");
    else box.close();
  });
  const figures = document.querySelectorAll(".cell_output img, .bd-article img.enlarge");
  for (const figure of figures) {
    const open = () => {
      picture.src = figure.src;
      picture.alt = figure.alt;
      words.textContent = figure.alt;
      const [wide, high] = [figure.naturalWidth || figure.width, figure.naturalHeight || figure.height]; // not loaded yet
      const scale = Math.min((0.96 * innerWidth) / wide, (0.84 * innerHeight) / high);
      picture.style.width = `${Math.floor(scale * wide)}px`;
      box.classList.toggle("natural", scale < 0.5); // too small to read: at its own size, to be scrolled
      box.showModal();
    };
    figure.tabIndex = 0;
    figure.setAttribute("role", "button");
    figure.setAttribute("aria-haspopup", "dialog");
    figure.title = "Click to enlarge";
    figure.addEventListener("click", open);
    figure.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open();
    });
  }
}

/* Code and tables that are wider than the page can be reached by keyboard; a shadow shows that they go on. */
function markScrolling() {
  const boxes = document.querySelectorAll(".bd-article pre, .cell_output, .bd-article .pst-scrollable-table-container");
  const look = (box) => {
    const more = box.scrollWidth - box.clientWidth;
    box.classList.toggle("more-right", more > 1 && box.scrollLeft < more - 1);
    if (more > 1) box.tabIndex = 0;
  };
  const watch = new ResizeObserver((entries) => entries.forEach((entry) => look(entry.target)));
  for (const box of boxes) {
    watch.observe(box);
    box.addEventListener("scroll", () => look(box), { passive: true });
  }
}

/* Search results quote the article, not the menus around it. */
function quoteArticles() {
  if (typeof Search === "undefined" || !Search.htmlToText) return;
  const whole = Search.htmlToText;
  Search.htmlToText = (text, anchor) => {
    const article = new DOMParser().parseFromString(text, "text/html").querySelector("article.bd-article");
    return article ? whole(`<div role="main">${article.innerHTML}</div>`, anchor) : whole(text, anchor);
  };
}

document.addEventListener("DOMContentLoaded", () => {
  quoteArticles();
  mendToggles();
  enlargeFigures();
  markScrolling();
});
