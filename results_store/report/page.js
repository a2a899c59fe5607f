(async () => {
  const packed = Uint8Array.from(atob(document.getElementById("data").textContent), (letter) => letter.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = await new Response(unpacked).json();
  const names = Object.keys(data.columns);
  const at = Object.fromEntries(names.map((name, place) => [name, place]));
  const value = (row, name) => row[at[name]];
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  /* ---- texts: only ever as text, never as markup */

  const made = (tag, properties = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, given] of Object.entries(properties)) {
      if (name in node) node[name] = given;
      else node.setAttribute(name, given);
    }
    node.append(...children);
    return node;
  };
  const shown = (found) => {
    if (found === null || found === undefined) return "";
    if (typeof found !== "number") return String(found);
    if (Number.isInteger(found)) return found.toLocaleString("en");
    const size = Math.abs(found);
    if (size >= 1000) return found.toLocaleString("en", { maximumFractionDigits: 0 });
    return String(Number(found.toPrecision(4)));
  };
  const MARKS = { SUSPECT: "? SUSPECT", INVALID: "✗ INVALID" };
  const inWords = (name, found) => (name === "verdict" ? MARKS[found] ?? shown(found) : shown(found));

  // a recipe may go on in the next line after each of its choices
  const breakable = (text) => text.split(/(?<=\+)/).flatMap((part) => [part, document.createElement("wbr")]).slice(0, -1);

  const table = (headings, rows, label) => {
    const head = made("tr", {}, ...headings.map((text) => made("th", { scope: "col" }, text)));
    const body = made("tbody");
    for (const row of rows) {
      const cells = row.map((text, place) => {
        const cell = place ? made("td") : made("th", { scope: "row" });
        // only the first column has recipes
        cell.append(...(place ? [String(text)] : breakable(String(text))));
        return cell;
      });
      body.append(made("tr", {}, ...cells));
    }
    return made("table", { "aria-label": label }, made("thead", {}, head), body);
  };

  /* ---- the reader's scheme: figures come in the light one's colours */

  const dark = matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  const isDark = () => dark.matches && !printing;
  const coloured = (given) => {
    if (typeof given === "string") return isDark() && Object.hasOwn(data.dark, given) ? data.dark[given] : given;
    if (Array.isArray(given)) return given.map(coloured);
    if (given && typeof given === "object")
      return Object.fromEntries(Object.entries(given).map(([name, inner]) => [name, coloured(inner)]));
    return given;
  };

  /* ---- charts */

  const chosen = { group: 0, batch: null };
  const coarse = matchMedia("(pointer: coarse)").matches;
  const hidden = new Map();
  const near = new Set();

  const chartOf = (name) => {
    const of = data.run?.[name] ?? data.groups[chosen.group]?.charts[name];
    return of && (of["*"] ?? of[chosen.batch]);
  };

  // a long recipe loses its middle where the chart is narrow; its table has all of it
  const LETTER_PX = 7.2;
  const fitting = (text, width) => {
    const whole = unescaped(text);
    const most = Math.floor(width / LETTER_PX);
    if (whole.length <= most) return text;
    const [name, ...rest] = whole.split(" · ");
    const tail = rest.length ? ` · ${rest.join(" · ")}` : "";
    const half = Math.max(4, Math.floor((most - tail.length - 1) / 2));
    return escaped(`${name.slice(0, half)}…${name.slice(-half)}${tail}`);
  };

  const layoutOf = (chart, width) => {
    const layout = coloured(chart.figure.layout);
    for (const label of layout.annotations ?? []) label.text = fitting(label.text, width - 24);
    layout.template = coloured(data.template);
    layout.template.layout.font.family = getComputedStyle(document.body).fontFamily;
    // a finger scrolls the page, a mouse may zoom
    layout.dragmode = coarse ? false : "zoom";
    if (coarse) for (const axis of ["xaxis", "yaxis"]) layout[axis] = { ...layout[axis], fixedrange: true };
    return layout;
  };

  const draw = (figure) => {
    const name = figure.dataset.chart;
    const chart = chartOf(name);
    const plot = one(".plot", figure);
    if (!chart?.figure) return;
    const off = hidden.get(name) ?? new Set();
    const traces = coloured(chart.figure.data).map((trace) => ({ ...trace, visible: !off.has(trace.name) }));
    const layout = layoutOf(chart, printing ? PRINTED_PX : plot.clientWidth);
    if (printing) layout.width = PRINTED_PX;
    Plotly.react(plot, traces, layout, { displayModeBar: false, responsive: true });
    figure.dataset.drawn = "yes";
  };

  const PRINTED_PX = 640;
  const watching = new IntersectionObserver(
    (seen) => {
      for (const { target, isIntersecting } of seen) {
        if (!isIntersecting) continue;
        watching.unobserve(target);
        near.add(target);
        draw(target);
      }
    },
    { rootMargin: "400px" },
  );

  const SHAPES = {
    circle: "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0", square: "M-4.5 -4.5h9v9h-9z", diamond: "M0 -6L6 0L0 6L-6 0z",
    "triangle-up": "M0 -6L5.5 4H-5.5z", "triangle-down": "M0 6L5.5 -4H-5.5z",
    cross: "M-2 -6h4v4h4v4h-4v4h-4v-4h-4v-4h4z", x: "M-5 -3L-3 -5L0 -2L3 -5L5 -3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0z",
    "diamond-tall": "M0 -7L3.5 0L0 7L-3.5 0z",
  };
  const DASHES = { dot: "2 3", dash: "6 3", solid: "" };
  const drawn = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, given] of Object.entries(attributes)) node.setAttribute(name, given);
    return node;
  };
  const swatch = (trace) => {
    const svg = drawn("svg", { width: 34, height: 16, viewBox: "-17 -8 34 16", "aria-hidden": "true" });
    const colour = coloured(trace.line?.color ?? trace.marker?.color ?? "#000");
    if (trace.type === "bar") {
      svg.append(drawn("rect", { x: -14, y: -6, width: 28, height: 12, fill: colour, class: `bar ${trace.marker.pattern?.shape === "/" ? "striped" : trace.marker.pattern?.shape === "x" ? "crossed" : ""}` }));
      const lines = { "/": ["M-10 6L2 -6M-2 6L10 -6"], x: ["M-10 6L2 -6M-2 6L10 -6M-10 -6L2 6M-2 -6L10 6"] }[trace.marker.pattern?.shape] ?? [];
      for (const path of lines) svg.append(drawn("path", { d: path, class: "hatch" }));
      return svg;
    }
    if ((trace.mode ?? "").includes("lines"))
      svg.append(drawn("line", { x1: -16, x2: 16, y1: 0, y2: 0, stroke: colour, "stroke-width": trace.line?.width ?? 2, "stroke-dasharray": DASHES[trace.line?.dash] ?? "" }));
    if ((trace.mode ?? "").includes("markers")) {
      const symbol = [trace.marker.symbol].flat()[0]?.replace("-open", "") ?? "circle";
      svg.append(drawn("path", { d: SHAPES[symbol] ?? SHAPES.circle, fill: colour }));
    }
    return svg;
  };

  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const unescaped = (text) => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
  const legend = (figure, chart) => {
    const list = one(".legend", figure);
    const name = figure.dataset.chart;
    const traces = chart.figure ? chart.figure.data.filter((trace) => trace.showlegend) : [];
    list.hidden = !traces.length;
    const off = hidden.get(name) ?? new Set();
    list.replaceChildren(
      ...traces.map((trace) => {
        const button = made("button", { type: "button" }, swatch(trace), made("span", {}, ...breakable(unescaped(trace.name))));
        button.setAttribute("aria-pressed", String(!off.has(trace.name)));
        button.addEventListener("click", () => {
          if (!off.delete(trace.name)) off.add(trace.name);
          hidden.set(name, off);
          button.setAttribute("aria-pressed", String(!off.has(trace.name)));
          draw(figure);
        });
        return made("li", {}, button);
      }),
    );
  };

  const tableOf = (chart) =>
    chart.rows.length || !chart.cells.length
      ? [chart.columns, chart.rows.map((row) => row.map(shown))]
      : [
          chart.columns.map((name) => data.columns[name]),
          chart.cells.map((cell) => chart.columns.map((name) => inWords(name, value(data.rows[cell], name)))),
        ];
  const fill = (figure) => {
    const chart = chartOf(figure.dataset.chart);
    const details = one("details.table", figure);
    if (!chart || !details.open) return;
    const [headings, rows] = tableOf(chart);
    one(".scroll", details).replaceChildren(table(headings, rows, one(".scroll", details).getAttribute("aria-label")));
  };

  const set = (figure) => {
    const chart = chartOf(figure.dataset.chart);
    figure.hidden = !chart;
    if (!chart) return;
    const plot = one(".plot", figure);
    one(".says", figure).replaceChildren(...breakable(chart.says));
    figure.classList.toggle("nothing", !chart.figure);
    plot.hidden = !chart.figure;
    plot.setAttribute("aria-label", `${one("figcaption :is(h3, h4)", figure).textContent}. ${chart.says}`);
    if (chart.figure) plot.style.minHeight = `${chart.figure.layout.height}px`;
    one("details.table", figure).hidden = !chart.rows.length && !chart.cells.length;
    one(".points", figure).replaceChildren(...chart.points.map((text) => made("li", {}, ...breakable(text))));
    one(".points", figure).hidden = !chart.points.length;
    legend(figure, chart);
    fill(figure);
    if (near.has(figure)) draw(figure);
    else watching.observe(figure);
  };

  const figures = all("figure.chart");
  for (const figure of figures) one("details.table", figure).addEventListener("toggle", () => fill(figure));
  const setAll = () => figures.forEach(set);

  /* ---- which group and batch size the charts show */

  const options = (select, values, preferred) => {
    select.replaceChildren(...values.map(([given, text]) => made("option", { value: given }, text)));
    if (values.some(([given]) => String(given) === String(preferred))) select.value = preferred;
  };
  const view = one("#view");
  if (view && data.groups.length) {
    const { group, batch } = view.elements;
    const setGroup = () => {
      chosen.group = Number(group.value);
      const of = data.groups[chosen.group];
      options(batch, of.batches.map((size) => [size, String(size)]), chosen.batch ?? of.batch);
      if (!of.batches.map(String).includes(batch.value)) batch.value = String(of.batch);
      chosen.batch = batch.value;
      hidden.clear();
      setAll();
    };
    group.addEventListener("change", setGroup);
    batch.addEventListener("change", () => { chosen.batch = batch.value; setAll(); });
    view.addEventListener("submit", (event) => event.preventDefault());
    group.parentElement.hidden = data.groups.length < 2;
    view.hidden = false;
    setGroup();
    batch.parentElement.hidden = data.groups.every((of) => of.batches.length < 2);
    view.hidden = group.parentElement.hidden && batch.parentElement.hidden;
  } else setAll();

  /* ---- the answer under the reader's limits: `decide` gives it, this asks and tells */

  const limits = one("#limits");
  const MOST_LISTED = 50;
  const BESIDE = ["throughput_samples_sec", "latency_p50_ms", "latency_p99_ms", "accuracy_top1"];
  const COSTS = ["ram_usage_mb", "vram_usage_mb", "model_size_mb", "energy_per_sample_j", "build_time_s", "load_s", "first_call_ms"];
  const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  const signed = (number) => `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(1)}`;
  const rowOf = (found) => data.rows[found.number];
  const named = (found) => `${value(rowOf(found), "optimization_technique")} at batch ${value(rowOf(found), "batch_size")}`;
  const withUnit = (text, unit) => (unit ? `${text} ${unit}` : text);

  const asked = () => {
    const form = limits.elements;
    const group = data.groups[Number(form.group.value)];
    const bounds = {};
    for (const [key, metric] of Object.entries(data.rule.metrics))
      // 94.3 % is meant to be the same number as 0.943
      if (form[key].value !== "") bounds[key] = Number((Number(form[key].value) / metric.factor).toPrecision(15));
    return {
      group,
      batch: form.batch.value,
      objective: form.goal.value,
      limits: bounds,
      suspect: form.suspect.checked,
      price: Number(form.price.value) || null,
      bias: group.bias[form.batch.value || "any"],
    };
  };
  const rowsOf = (question) =>
    data.basis
      .slice(question.group.first, question.group.first + question.group.count)
      .filter((row) => row && (!question.batch || String(value(rowOf(row), "batch_size")) === question.batch));

  // the same question for the command line, which takes every cell of the run
  const commandOf = (question) => {
    const quoted = (text) => (/^[\w.,=+:-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);
    const words = ["python", "-m", "results_store", "recommend", data.run_id, "--device", question.group.device, "--model", question.group.model];
    if (question.objective !== "throughput") words.push("--objective", question.objective);
    if (question.batch) words.push("--batch-size", question.batch);
    for (const [key, bound] of Object.entries(question.limits)) words.push(data.rule.metrics[key].flag, String(bound));
    if (question.price) words.push("--price-per-hour", `${question.group.device}=${question.price}`);
    if (question.suspect) words.push("--allow-suspect");
    return words.map(quoted).join(" ");
  };

  const reading = (metric, [middle, low, high]) => {
    const scaled = (number) => shown(number * metric.factor);
    return withUnit(low === null || high === null ? scaled(middle) : `${scaled(middle)} (${scaled(low)} to ${scaled(high)})`, metric.unit);
  };
  const checked = ({ limit, row, judged, miss }) => {
    const found = row.readings[limit.key];
    if (judged === "unknown") return `${limit.metric.name} unknown: ${found}`;
    return `${limit.metric.name} ${reading(limit.metric, found)}, ${judged}: ${withUnit(shown(miss * limit.metric.factor), limit.metric.unit)} beyond`;
  };
  const bounded = (limit) => {
    const side = limit.metric.better > 0 ? "at least" : "at most";
    return `${limit.metric.name} ${side} ${withUnit(shown(limit.bound * limit.metric.factor), limit.metric.unit)}`;
  };

  const keptOut = (answer, question) => {
    const said = [];
    for (const { limit, kept, out, alone } of answer.exclusions) {
      if (!out.length) continue;
      const judged = ["missed", "uncertain", "unknown"].map((how) => [out.filter((check) => check.judged === how).length, how]);
      const counted = judged.filter(([number]) => number).map(([number, how]) => `${number} ${how}`).join(", ");
      const unknown = out.find((check) => check.judged === "unknown");
      const why = unknown ? ` Unknown: ${unknown.row.readings[limit.key]}.` : "";
      const what = limit.bound === null ? `${limit.metric.name} is not known of` : `${bounded(limit)} leaves out`;
      said.push(`${what} ${out.length} of ${count(out.length + kept, "cell")} (${counted})${limit.bound === null ? "" : `, ${alone} of them alone`}.${why}`);
    }
    const { group, batch } = question;
    const others = data.rows.slice(group.first, group.first + group.count).filter((row) => !batch || String(value(row, "batch_size")) === batch);
    const invalid = others.filter((row) => value(row, "verdict") === "INVALID").length;
    const unmeasured = others.filter((row) => value(row, "verdict") === null).length;
    if (invalid) said.push(`${count(invalid, "cell")} INVALID, never recommended.`);
    if (unmeasured) said.push(`${count(unmeasured, "cell")} not measured.`);
    if (answer.passedOver) said.push(`${count(answer.passedOver, "cell")} SUSPECT and passed over, because others are VALID.`);
    return said;
  };
  const list = (texts) => made("ul", { className: "prose fine" }, ...texts.map((text) => made("li", {}, ...breakable(text))));

  const standing = ({ standing: found, middle, low, high }) => {
    if (middle === undefined) return found;
    const [percent, from, to] = [middle, low, high].map((log) => signed(100 * Math.expm1(log)));
    return `${found}: ${percent} % (${from} to ${to})`;
  };
  const beside = (answer, question) => {
    const counted = (found) => answer.candidates.filter((one) => one.standing === found).length;
    if (!answer.candidates.length) return "It is the only cell that keeps these limits.";
    const level = answer.told ? `, at ${Number((100 * answer.confidence).toPrecision(4))} % each` : "";
    const unknown = answer.candidates.find((one) => one.reason);
    const parts = [
      [counted("worse"), "found worse"],
      [counted("no difference found"), "tie with it: no difference found"],
      [counted("better"), "better by their repeats, though not by the estimate"],
      [counted("cannot be told"), `cannot be told from it${unknown ? ` (${unknown.reason})` : ""}`],
    ].filter(([number]) => number);
    const { takes } = data.rule.objectives[question.objective];
    return `Of ${count(answer.candidates.length, "other cell")} that could be chosen, by ${takes}${level}: ${parts.map(([number, what]) => `${number} ${what}`).join("; ")}.`;
  };

  const costOf = (found, question) => {
    const speed = found.readings.min_throughput;
    return question.price && Array.isArray(speed) ? shown((1e6 / speed[0] / 3600) * question.price) : "";
  };
  const bill = (found, question) => {
    const costs = made("dl", { className: "costs" });
    const add = (what, text) => costs.append(made("div", {}, made("dt", {}, what), made("dd", {}, text)));
    if (question.price) add("per million samples", costOf(found, question));
    for (const name of COSTS) if (value(rowOf(found), name) !== null) add(data.columns[name], shown(value(rowOf(found), name)));
    if (value(rowOf(found), "pays") !== null) add(data.columns.pays, value(rowOf(found), "pays"));
    return costs;
  };

  const ranking = (answer, question) => {
    const every = [{ row: answer.winner, standing: "the best" }, ...answer.candidates].slice(0, MOST_LISTED);
    const bounds = Object.keys(question.limits).map((key) => data.rule.metrics[key].column).filter(Boolean);
    const [first, size, ...rest] = ["optimization_technique", ...new Set(["batch_size", ...BESIDE, ...bounds, ...COSTS, "pays_after", "verdict"])]
      .filter((name) => every.some(({ row }) => value(rowOf(row), name) !== null));
    const priced = question.price ? ["per million samples"] : [];
    const rows = every.map((one) => [
      ...[first, size].map((name) => shown(value(rowOf(one.row), name))), standing(one), ...(question.price ? [costOf(one.row, question)] : []),
      ...rest.map((name) => inWords(name, value(rowOf(one.row), name)))]);
    const headings = [data.columns[first], data.columns[size], "beside the best", ...priced, ...rest.map((name) => data.columns[name])];
    return made("div", { className: "scroll tall", tabIndex: 0, role: "region", "aria-label": "What keeps these limits" },
      table(headings, rows, "What keeps these limits, the best first"));
  };

  const sentenceOf = ({ winner }, question) => {
    const found = winner.readings;
    const keys = ["min_throughput", "max_p50_ms", "max_p99_ms", "min_top1", ...Object.keys(question.limits)];
    const told = [...new Set(keys)].filter((key) => Array.isArray(found[key])).map((key) => `${data.rule.metrics[key].name} ${reading(data.rule.metrics[key], found[key])}`);
    return `Deploy ${named(winner)} on ${question.group.device}: ${told.join(", ")}.`;
  };
  const doubts = ({ winner }, question) => {
    const [measured, wanted] = ["repeats_measured", "repeats_wanted"].map((name) => value(rowOf(winner), name));
    const repeats = `It was measured in ${measured} of ${count(wanted, "repeat")}`;
    const said = [
      winner.is_valid ? "" : `This row is SUSPECT${question.suspect ? "" : ": nothing VALID keeps these limits"}.`,
      measured < data.rule.min_repeats ? `${repeats}, which claims no difference between recipes; the standard protocol measures ten.` : "",
      measured < wanted && measured >= data.rule.min_repeats ? `${repeats}: the others failed, were cancelled or are still to come.` : "",
    ].filter(Boolean);
    return said.length ? [made("p", { className: "notice" }, `${said.join(" ")} `, made("a", { href: "#doubts" }, "What is doubted, and why"), ".")] : [];
  };

  const tell = (answer, question) => {
    const title = question.group.title;
    const out = keptOut(answer, question);
    const whole = question.group.rows > question.group.count ? `This page has ${question.group.count} of ${count(question.group.rows, "cell")}; this command takes all: ` : "The same question for the command line: ";
    const again = made("p", { className: "fine" }, whole, made("code", {}, commandOf(question)));
    if (!answer.winner) {
      const failed = answer.nearest?.failed ?? [];
      const near = !failed.length ? "Nothing was measured that can be trusted."
        : `${failed.every((check) => check.miss === null) ? "Of no cell is known what is asked for" : `The nearest is ${named(answer.nearest.row)}`}: ${failed.map(checked).join("; ")}.`;
      one("#choice").replaceChildren(
        made("p", { className: "sentence" }, `Nothing to deploy for ${title} under these limits.`), made("p", {}, ...breakable(near)), list(out), again);
      return;
    }
    const all = 1 + answer.candidates.length;
    const listed = all > MOST_LISTED ? ` The first ${MOST_LISTED} of ${all}:` : "";
    one("#choice").replaceChildren(
      made("p", { className: "sentence" }, ...breakable(sentenceOf(answer, question))), ...doubts(answer, question),
      made("h3", {}, "What it costs"), bill(answer.winner, question),
      made("h3", {}, "What else keeps these limits"), made("p", {}, `${beside(answer, question)}${listed}`), ranking(answer, question),
      ...(out.length ? [made("h3", {}, "What does not"), list(out)] : []), again);
  };

  const choose = () => {
    const wrong = [...limits.elements].filter((field) => !field.checkValidity());
    if (wrong.length) {
      const said = wrong.map((field) => `${field.parentElement.firstChild.textContent.trim()}: ${field.validationMessage}`);
      one("#choice").replaceChildren(made("p", { className: "notice" }, said.join(" ")));
      return;
    }
    const question = asked();
    tell(decide(data.rule, rowsOf(question), question), question);
  };

  if (limits && data.groups.length) {
    const form = limits.elements;
    data.basis.forEach((row, number) => { if (row) row.number = number; });
    const setBatches = () => {
      const group = data.groups[Number(form.group.value)];
      options(form.batch, [["", "any"], ...group.batches.map((size) => [size, String(size)])], form.batch.value);
    };
    for (const option of form.goal.options) {
      const { metric } = data.rule.objectives[option.value];
      option.disabled = !data.basis.some((row) => row && Array.isArray(row.readings[metric]));
    }
    form.group.parentElement.hidden = data.groups.length < 2;
    setBatches();
    form.group.addEventListener("input", setBatches);
    limits.addEventListener("input", choose);
    limits.addEventListener("submit", (event) => event.preventDefault());
    limits.hidden = false;
    choose();
  }

  /* ---- all cells, made when somebody looks */

  const every = one("#all");
  if (every) {
    const NOT_SHOWN = new Set(["latency_p50_low_ms", "latency_p50_high_ms", "latency_p99_low_ms", "latency_p99_high_ms", "speedup_low", "speedup_high", "accuracy_top1_low", "accuracy_top1_high"]);
    const columns = ["optimization_technique", ...names.filter((name) => name !== "optimization_technique" && !NOT_SHOWN.has(name) && data.rows.some((row) => value(row, name) !== null))];
    const list = () => {
      const words = one("#find").value.toLowerCase().split(/\s+/).filter(Boolean);
      const rows = data.rows.filter((row) => {
        const text = row.filter((found) => typeof found === "string").join(" ").toLowerCase();
        return words.every((word) => text.includes(word));
      });
      one("#found").textContent = words.length ? `${count(rows.length, "cell")} of ${data.rows.length}` : "";
      one(".scroll", every).replaceChildren(
        table(columns.map((name) => data.columns[name]), rows.map((row) => columns.map((name) => inWords(name, value(row, name)))), "All cells"));
    };
    let waiting = 0;
    every.addEventListener("toggle", () => { if (every.open) list(); });
    one("#find").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(list, 150); });
  }

  /* ---- scheme and paper */

  const redraw = () => { for (const figure of figures) { const chart = chartOf(figure.dataset.chart); if (chart) legend(figure, chart); if (near.has(figure)) draw(figure); } };
  const opened = [];
  dark.addEventListener("change", redraw);
  let wide = innerWidth;
  let resized = 0;
  addEventListener("resize", () => {
    if (innerWidth === wide) return;
    wide = innerWidth;
    clearTimeout(resized);
    resized = setTimeout(redraw, 150);
  });
  addEventListener("beforeprint", () => {
    printing = true;
    opened.push(...all("#environment details:not([open]), details.matrix:not([open])"));
    for (const details of opened) details.open = true;
    for (const figure of figures) near.add(figure);
    redraw();
  });
  addEventListener("afterprint", () => {
    printing = false;
    for (const details of opened.splice(0)) details.open = false;
    for (const figure of figures) delete one(".plot", figure).layout?.width;
    redraw();
  });
  document.documentElement.dataset.ready = "yes";
})();
