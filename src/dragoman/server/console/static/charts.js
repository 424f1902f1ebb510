// Charts of the usage page, drawn by uPlot from the figures that the server wrote into the page.

const data = JSON.parse(document.getElementById("chart-data").textContent);
const plots = [];

// Days are those of the ledger, in UTC; hours are shown in the viewer's time zone.
const isDaily = data.unit === "day";
const timeZone = isDaily ? "UTC" : undefined;

// Tokens are light-dark() pairs: only a property that is a colour says which of the two it is now.
const sample = document.createElement("span");
sample.hidden = true;
document.body.append(sample);

function colour(name) {
  sample.style.color = `var(${name})`;
  return getComputedStyle(sample).color;
}

function seriesColour(index) {
  return colour(`--series-${Math.min(index + 1, 8)}`);
}

function compact(value) {
  if (value === 0) return "0";
  for (const [unit, suffix] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (Math.abs(value) >= unit) return `${+(value / unit).toPrecision(3)}${suffix}`;
  }
  return String(+value.toPrecision(3));
}

function duration(milliseconds) {
  if (!milliseconds) return "0";
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${+(milliseconds / 1000).toPrecision(3)} s`;
}

/** Return the sums of all series up to each one: a stack of bars is drawn from the highest to the lowest. */
function stacked(series) {
  const sums = [];
  let below = new Array(data.times.length).fill(0);
  for (const values of series) {
    below = below.map((sum, index) => sum + values[index]);
    sums.push(below);
  }
  return sums;
}

function axes(format) {
  const grid = { stroke: colour("--line"), width: 1 };
  const shared = { stroke: colour("--ink-soft"), grid, ticks: grid, font: `12px ${getComputedStyle(document.body).fontFamily}` };
  return [
    { ...shared, grid: { show: false }, values: dateLabels, space: 70, size: 30, gap: 6 },
    { ...shared, ticks: { show: false }, values: (_, ticks) => ticks.map(format), size: 56, gap: 8 },
  ];
}

function dateLabels(_, ticks) {
  const isHourly = data.unit === "hour" && data.times.length <= 24;
  return ticks.map((tick) => {
    const at = new Date(tick * 1000);
    return isHourly
      ? at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false })
      : at.toLocaleDateString([], { month: "short", day: "numeric", timeZone });
  });
}

function bar(label, fill, share) {
  const paths = uPlot.paths.bars({ size: [share, 48 * share], radius: 0.12 });
  return { label, fill, stroke: fill, width: 0, paths, points: { show: false } };
}

/** Draw a stack of bars. `marks` are of all groups together: narrow bars in front. */
function bars(series, marks) {
  const sums = stacked(series);
  const order = sums.map((_, index) => index).reverse();
  const front = marks?.values.some((value) => value) ? [marks] : [];
  return {
    values: [data.times, ...order.map((index) => sums[index]), ...front.map(({ values }) => values)],
    series: [
      ...order.map((index) => bar(data.groups[index], seriesColour(index), 0.72)),
      ...front.map(({ label }) => bar(label, colour("--bad"), 0.3)),
    ],
    describe: (at) =>
      [
        ...order.toReversed().map((index) => [data.groups[index], series[index][at]]),
        ...front.map(({ label, values }) => [label, values[at]]),
      ].filter(([, value]) => value),
  };
}

function lines() {
  const named = [["p50", data.p50], ["p95", data.p95]];
  return {
    values: [data.times, ...named.map(([, values]) => values)],
    series: named.map(([label], index) => ({
      label,
      stroke: seriesColour(index),
      width: 2,
      spanGaps: true,
      points: { show: true, size: 5, fill: seriesColour(index) },
    })),
    describe: (at) => named.map(([label, values]) => [label, values[at]]).filter(([, value]) => value !== null),
  };
}

const KINDS = {
  tokens: [() => bars(data.tokens), compact],
  requests: [() => bars(data.requests, { label: "errors", values: data.errors }), compact],
  money: [() => bars(data.money), compact],
  first: [lines, duration],
};

function draw(holder) {
  const [build, format] = KINDS[holder.dataset.chart];
  const { values, series, describe } = build();
  const note = holder.parentElement.querySelector(".chart-note");
  note.textContent = "";
  const step = data.seconds;
  const options = {
    width: holder.clientWidth,
    height: 220,
    padding: [8, 12, 0, 0],
    cursor: { y: false, points: { show: false } },
    legend: { show: false },
    ...(isDaily && { tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC") }),
    scales: {
      x: { range: (_, low, high) => [low - step / 2, high + step / 2] },
      y: { range: (_, _low, high) => [0, high > 0 ? high * 1.04 : 1] },
    },
    axes: axes(format),
    series: [{}, ...series],
    hooks: {
      setCursor: [
        (plot) => {
          const at = plot.cursor.idx;
          if (at === null || at === undefined || plot.cursor.left < 0) {
            note.textContent = "";
            return;
          }
          const moment = new Date(data.times[at] * 1000);
          const when = isDaily
            ? moment.toLocaleDateString([], { dateStyle: "medium", timeZone })
            : moment.toLocaleString([], { dateStyle: "medium", timeStyle: "short", hour12: false });
          const parts = describe(at).map(([label, value]) => `${label} ${format(value)}`);
          note.textContent = `${when}: ${parts.join(", ") || "none"}`;
        },
      ],
    },
  };
  plots.push([holder, new uPlot(options, values, holder)]);
}

/** Move the cursor of the chart that has the focus by the arrow keys. */
function moveCursor(event) {
  const plot = plots.find(([holder]) => holder === event.currentTarget)?.[1];
  const last = data.times.length - 1;
  const at = plot.cursor.idx;
  const to = {
    ArrowLeft: at == null ? last : Math.max(0, at - 1),
    ArrowRight: at == null ? 0 : Math.min(last, at + 1),
    Home: 0,
    End: last,
  }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  plot.setCursor({ left: plot.valToPos(data.times[to], "x"), top: 0 });
}

function drawAll() {
  for (const [, plot] of plots.splice(0)) plot.destroy();
  for (const holder of document.querySelectorAll("[data-chart]")) draw(holder);
}

for (const holder of document.querySelectorAll("[data-chart]")) holder.addEventListener("keydown", moveCursor);
drawAll();
document.addEventListener("theme-changed", drawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
new ResizeObserver(() => {
  for (const [holder, plot] of plots) plot.setSize({ width: holder.clientWidth, height: 220 });
}).observe(document.getElementById("content"));
