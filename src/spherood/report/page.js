// Draws the charts and keeps them, the slider and the numbers in step. Counts come binned from Python: see curves.py.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const select = $("row"), slider = $("threshold"), embed = { mode: "vega-lite", renderer: "svg", actions: false };
  const percent = (count, size) => (100 * (count / size)).toFixed(1) + "\u00a0%";
  const share = (count, size) => count / size;
  const sets = data.cards.map((name, index) => ({ name, card: $("card-" + index) })).filter((set) => set.card);
  let row = data.rows[0];

  const labelOf = (one) => one.model + " · " + one.score;
  const number = (value) => value.toFixed(row.digits);

  // Bars of one half are scaled to its own tallest bar: sets differ in spread, and only the overlap matters here.
  function bars(side, sign, group) {
    const peak = Math.max(...group.bins), width = (row.high - row.low) / group.bins.length;
    return group.bins.map((count, i) => {
      const low = row.low + i * width, high = low + width, last = group.bins.length - 1;
      const span = i === 0 ? "up to " + number(high) : i === last ? number(low) + " and more" : number(low) + " to " + number(high);
      return { side, low, high, span, share: percent(count, group.size), height: (sign * count) / peak };
    }).filter((bar) => bar.height !== 0);
  }

  function lines(name) {
    return data.rows.flatMap((one) => {
      const curve = one.roc[name];
      return curve ? curve[0].map((x, i) => ({ i, x, y: curve[1][i], row: labelOf(one), main: one === row })) : [];
    });
  }

  function drawRow() {
    slider.max = row.grid.length - 1;
    slider.value = row.calibrated;
    $("tick").style.setProperty("--at", row.calibrated / (row.grid.length - 1));
    for (const set of sets) {
      const ood = row.ood[set.name];
      const frame = set.card.querySelector(".drawn"), appears = frame.hidden && ood;
      frame.hidden = !ood;
      set.card.querySelector(".not-drawn").hidden = Boolean(ood);
      if (!ood) continue;
      if (appears) window.dispatchEvent(new Event("resize")); // the window may have changed while it was hidden
      set.card.querySelector(".auroc").textContent = row.auroc[set.name] + "\u00a0%";
      set.card.querySelector(".outside").textContent =
        percent(row.id.outside, row.id.size) + " of ID and " + percent(ood.outside, ood.size) + " of " + set.name;
      const calibrated = row.calibrated;
      set.histogram
        .signal("low", row.low).signal("high", row.high).signal("calibrated", row.grid[calibrated])
        .data("bars", [...bars("ID", 1, row.id), ...bars("OOD", -1, ood)]);
      set.roc
        .signal("calibrated_rejected", 1 - share(row.id.kept[calibrated], row.id.size))
        .signal("calibrated_caught", 1 - share(ood.kept[calibrated], ood.size))
        .data("curve", lines(set.name))
        .data("band", row.bound.map((x, i) => ({ i, x, y: 1 - share(ood.kept[i], ood.size) })).filter((point) => point.x < 1));
    }
    drawThreshold();
  }

  let later = 0;
  function drawThreshold() {
    const at = Number(slider.value), id = row.id, threshold = number(row.grid[at]);
    const kept = percent(id.kept[at], id.size), alarms = percent(id.size - id.kept[at], id.size);
    const said = [];
    $("threshold-value").textContent = threshold;
    $("id-kept").textContent = kept;
    $("id-alarms").textContent = alarms;
    $("is-calibrated").textContent = at === row.calibrated ? "calibrated" : at < row.calibrated ? "lower: more alarms" : "higher: fewer alarms";
    const bound = row.bound[at] >= 1 ? "no bound here" : "at most " + percent(row.bound[at], 1) + ", " + row.confidence + "\u00a0% confidence over the whole curve";
    $("promise").textContent = at === row.calibrated ? "promised: " + row.promise : bound;
    $("reset").disabled = at === row.calibrated;
    for (const set of sets) {
      const ood = row.ood[set.name];
      if (!ood) continue;
      const caught = percent(ood.size - ood.kept[at], ood.size);
      set.card.querySelector(".caught").textContent = caught;
      set.card.querySelector(".missed").textContent = percent(ood.kept[at], ood.size);
      said.push(caught + " of " + set.name);
      set.histogram.signal("threshold", row.grid[at]).runAsync();
      set.roc
        .signal("rejected", 1 - share(id.kept[at], id.size))
        .signal("caught", 1 - share(ood.kept[at], ood.size)).runAsync();
    }
    slider.setAttribute("aria-valuetext", threshold + ", " + kept + " of ID kept");
    clearTimeout(later); // a screen reader hears the state once the slider rests, not every step on the way
    later = setTimeout(() => {
      $("status").textContent = labelOf(row) + ", threshold " + threshold + ": " + kept + " of ID kept; caught: " + said.join(", ") + ".";
    }, 400);
  }

  async function start() {
    const learning = data.specs.learning.map((spec, i) => vegaEmbed($("learning-" + i), spec, embed));
    await Promise.all(sets.map(async (set) => {
      const [histogram, roc] = await Promise.all([
        vegaEmbed(set.card.querySelector(".histogram"), data.specs.histogram, embed),
        vegaEmbed(set.card.querySelector(".roc"), data.specs.roc, embed),
      ]);
      set.histogram = histogram.view.signal("ood", set.name);
      set.roc = roc.view;
    }));
    await Promise.all(learning);
    select.addEventListener("change", () => { row = data.rows[Number(select.value)]; drawRow(); });
    slider.addEventListener("input", drawThreshold);
    $("reset").addEventListener("click", () => { slider.value = row.calibrated; drawThreshold(); slider.focus(); });
    select.value = "0"; // a reload may restore the old choice
    drawRow();
    document.documentElement.dataset.drawn = "yes";
  }

  document.documentElement.classList.add("script");
  start().catch((error) => {
    document.documentElement.classList.remove("script"); // back to the page that reads without charts
    throw error;
  });
})();
