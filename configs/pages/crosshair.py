"""The script that shows the values of a line chart at the pointer, or at the place that the arrow
keys choose. A page without it, or a browser without scripts, lacks only that."""

SCRIPT = """<script>
"use strict";
for (const plot of document.querySelectorAll(".plot")) {
  const data = JSON.parse(plot.querySelector("script").textContent);
  const svg = plot.querySelector("svg");
  const out = plot.parentElement.querySelector(".readout");
  const line = svg.querySelector(".cursor");
  const places = [...new Set(data.series.flatMap(s => s.x))].sort((a, b) => a - b);
  let at = places.length - 1;
  const nearest = (xs, x) => {
    let low = 0, high = xs.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle + 1; else high = middle;
    }
    return low > 0 && x - xs[low - 1] < xs[low] - x ? low - 1 : low;
  };
  const number = v => v === null ? "not finite" : Number(v.toPrecision(5)).toLocaleString("en", {
    maximumSignificantDigits: 5, notation: v !== 0 && Math.abs(v) < 1e-3 ? "scientific" : "standard"
  });
  const show = x => {
    const values = data.series.filter(s => s.x.length).map(s => {
      const k = nearest(s.x, x), range = s.low ? s.low[k] < s.high[k] : false;
      const more = range ? ` (${number(s.low[k])} to ${number(s.high[k])})` : "";
      const there = s.x[k] === x ? "" : ` at ${s.x[k].toLocaleString("en")}`;
      return `${s.name} ${number(s.y[k])}${more}${there}`;
    });
    out.textContent = `${data.x_name} ${x.toLocaleString("en")}: ${values.join(" · ")}`;
    const place = data.left + (x - data.from) / (data.to - data.from) * data.width;
    line.setAttribute("x1", place);
    line.setAttribute("x2", place);
    line.setAttribute("visibility", "visible");
  };
  const move = k => {
    at = Math.max(0, Math.min(places.length - 1, k));
    if (places.length) show(places[at]);
  };
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const place = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    move(nearest(places, data.from + (place - data.left) / data.width * (data.to - data.from)));
  });
  plot.addEventListener("keydown", event => {
    const steps = {ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - 20, PageDown: at + 20,
                   Home: 0, End: places.length - 1};
    if (event.key in steps) { move(steps[event.key]); event.preventDefault(); }
  });
}
</script>"""
