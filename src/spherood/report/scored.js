// Draws the charts of a scored folder, each in the place of its name, and sorts its table of places.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const embed = { mode: "vega-lite", renderer: "svg", actions: false };
  document.documentElement.classList.add("script");
  Promise.all(Object.entries(data.specs).map(([name, spec]) => vegaEmbed(document.getElementById("chart-" + name), spec, embed)))
    .then(() => { document.documentElement.dataset.drawn = "yes"; })
    .catch((error) => {
      document.documentElement.classList.remove("script"); // back to the page that reads without charts
      throw error;
    });
})();
