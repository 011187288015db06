// Draws the charts of a training run, each in its own place.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const embed = { mode: "vega-lite", renderer: "svg", actions: false };
  document.documentElement.classList.add("script");
  Promise.all(data.specs.map((spec, i) => vegaEmbed(document.getElementById("chart-" + i), spec, embed))).then(() => {
    document.documentElement.dataset.drawn = "yes";
  }).catch((error) => {
    document.documentElement.classList.remove("script"); // back to the page that reads without charts
    throw error;
  });
})();
