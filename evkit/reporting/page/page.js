// Draws every chart of the page, in the colours of the screen it is on; paper is light.
(() => {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  // The colours of evkit's plotly template (figures/template.py), and what they become on a dark screen.
  const inTheDark = { "#24292f": "#e6edf3", "#57606a": "#9da7b3", "#e6e8eb": "#2a3038", "#afb8c1": "#484f58",
    "#0072B2": "#3d8fe0", "#56B4E9": "#9be0ff", "#332288": "#9a8cff", "#882255": "#d9679f", "#666666": "#a0a7af" };

  function figureOf(element, isDark) {
    let text = element.nextElementSibling.textContent;
    if (isDark) for (const [light, other] of Object.entries(inTheDark)) text = text.replaceAll(`"${light}"`, `"${other}"`);
    const figure = JSON.parse(text);
    const clear = "rgba(0,0,0,0)";
    Object.assign(figure.layout, { paper_bgcolor: clear, plot_bgcolor: clear, autosize: true });
    delete figure.layout.width;
    if (isDark) figure.layout.hoverlabel = { ...figure.layout.hoverlabel, bordercolor: "#484f58" };
    return figure;
  }

  function draw(isDark) {
    for (const element of document.querySelectorAll(".chart")) {
      const figure = figureOf(element, isDark);
      Plotly.react(element, figure.data, figure.layout, { displaylogo: false, responsive: true, ...figure.config });
    }
  }

  draw(dark.matches && !window.matchMedia("print").matches);
  dark.addEventListener("change", (event) => draw(event.matches));
  window.addEventListener("beforeprint", () => draw(false));
  window.addEventListener("afterprint", () => draw(dark.matches));
})();
