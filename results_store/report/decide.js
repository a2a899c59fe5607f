"use strict";
/* What `results_store/recommend.py` answers, for limits that a reader sets here. Its parts are made there and stand in the
   page's data (`report/basis.py`); tests hold both answers against each other. Nothing here touches the page. */
const decide = (() => {
  /* ---- Student's t, for any number of degrees of freedom */

  const LANCZOS = [0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313,
    -176.61502916214059, 12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7];
  const logGamma = (x) => {
    if (x < 0.5) return Math.log(Math.PI / Math.sin(Math.PI * x)) - logGamma(1 - x);
    const base = x + 6.5;
    const sum = LANCZOS.reduce((total, factor, n) => total + (n ? factor / (x + n - 1) : factor), 0);
    return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(base) - base + Math.log(sum);
  };

  // the continued fraction of the incomplete beta function, by Lentz's method
  const fraction = (x, a, b) => {
    const least = (value) => (Math.abs(value) < 1e-300 ? 1e-300 : value);
    let c = 1;
    let d = 1 / least(1 - ((a + b) * x) / (a + 1));
    let found = d;
    for (let m = 1; m < 10000; m += 1) {
      const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
      d = 1 / least(1 + even * d);
      c = least(1 + even / c);
      found *= d * c;
      const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
      d = 1 / least(1 + odd * d);
      c = least(1 + odd / c);
      found *= d * c;
      if (Math.abs(d * c - 1) < 1e-15) break;
    }
    return found;
  };

  // how often a t of so many degrees of freedom is beyond this one, on one side
  const tail = (t, freedom) => {
    const [a, b] = [freedom / 2, 0.5];
    const [x, rest] = [freedom / (freedom + t * t), (t * t) / (freedom + t * t)];
    const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log(rest));
    const share = x < (a + 1) / (a + b + 2) ? (front * fraction(x, a, b)) / a : 1 - (front * fraction(rest, b, a)) / b;
    return share / 2;
  };

  const quantile = (share, freedom) => {
    let [low, high] = [0, 1];
    while (tail(high, freedom) > share) [low, high] = [high, 2 * high];
    for (let step = 0; step < 80; step += 1) {
      const middle = (low + high) / 2;
      if (middle === low || middle === high) break;
      if (tail(middle, freedom) > share) low = middle;
      else high = middle;
    }
    return (low + high) / 2;
  };

  /* ---- constraints: kept at the unfavourable end of the interval, or not */

  const worst = (reading, better) => {
    const ends = reading.filter((end) => end !== null);
    return better > 0 ? Math.min(...ends) : Math.max(...ends);
  };
  const beyond = (limit, value) => (limit.bound === null ? 0 : (limit.bound - value) * limit.metric.better);
  const judged = (limit, reading) => {
    if (reading === null) return limit.bound === null ? "unknown" : "kept"; // this kind of device has nothing to keep
    if (typeof reading === "string") return "unknown";
    if (beyond(limit, worst(reading, limit.metric.better)) <= 0) return "kept";
    return beyond(limit, worst(reading, -limit.metric.better)) > 0 ? "missed" : "uncertain";
  };
  const missed = (limit, reading) => {
    if (!Array.isArray(reading)) return null;
    return Math.max(0, beyond(limit, worst(reading, limit.metric.better)));
  };
  const share = (check) => (check.limit.bound ? check.miss / check.limit.bound : check.miss ? Infinity : 0);

  /* ---- which rows differ: Welch's interval of the mean log-ratio, beyond what controls deviate by */

  const differ = (ours, theirs, confidence, bias) => {
    const middle = theirs[1] - ours[1];
    const shares = [ours, theirs].map(([count, , variance]) => variance / count);
    const sum = shares[0] + shares[1];
    let half = 0;
    if (sum > 0) {
      const freedom = sum ** 2 / (shares[0] ** 2 / (ours[0] - 1) + shares[1] ** 2 / (theirs[0] - 1));
      half = quantile((1 - confidence) / 2, freedom) * Math.sqrt(sum);
    }
    const [low, high] = [middle - half, middle + half];
    return { middle, low, high, standing: low > bias ? "worse" : high < -bias ? "better" : "no difference found" };
  };

  /* ---- the answer */

  return (rule, rows, question) => {
    const objective = rule.objectives[question.objective];
    const limitOf = (key, bound) => ({ key, bound, metric: rule.metrics[key] });
    const known = limitOf(objective.metric, null);
    const limits = Object.entries(question.limits).map(([key, bound]) => limitOf(key, bound));
    const axes = [...new Set([objective.metric, ...rule.axes, ...limits.map((limit) => limit.key)])];
    const score = (row, key) => {
      const reading = row.readings[key];
      const found = key in row.estimates ? row.estimates[key] : Array.isArray(reading) ? reading[0] : null;
      return found === null ? -Infinity : rule.metrics[key].better * found;
    };
    const seen = rows.map((row) => ({
      row,
      failed: [known, ...limits]
        .map((limit) => ({ limit, row, judged: judged(limit, row.readings[limit.key]), miss: missed(limit, row.readings[limit.key]) }))
        .filter((check) => check.judged !== "kept"),
    }));

    const feasible = seen.filter((one) => !one.failed.length).map((one) => one.row);
    const valid = feasible.filter((row) => row.is_valid);
    const chosen = question.suspect || !valid.length ? feasible : valid;
    const points = new Map(chosen.map((row) => [row, axes.map((key) => score(row, key))]));
    const ranked = [...chosen].sort((a, b) => {
      const [ours, theirs] = [points.get(a), points.get(b)];
      const at = ours.findIndex((value, place) => value !== theirs[place]);
      return at < 0 ? 0 : ours[at] > theirs[at] ? -1 : 1;
    });

    const enough = (...moments) => moments.every(([count]) => count >= rule.min_repeats);
    const compared = (winner, other) => {
      const isAlike = objective.is_timed && winner.alike === other.alike && enough(winner.ratios, other.ratios);
      const of = isAlike ? (row) => row.ratios : (row) => row.repeats[question.objective];
      return { by: isAlike ? "ratios" : "repeats", ours: of(winner), theirs: of(other) };
    };
    const [winner, ...others] = ranked;
    const pairs = others.map((row) => ({ row, ...compared(winner, row) }));
    const told = pairs.filter((pair) => enough(pair.ours, pair.theirs)).length;
    const confidence = 1 - (1 - rule.confidence) / Math.max(1, told);
    const candidates = pairs.map(({ row, by, ours, theirs }) => ({
      row,
      by,
      ...(enough(ours, theirs)
        ? differ(ours, theirs, confidence, by === "ratios" ? question.bias : 0)
        : { standing: "cannot be told", reason: `${ours[0]} and ${theirs[0]} repeats with a figure, ${rule.min_repeats} of each are needed` }),
    }));

    const exclusions = [known, ...limits].map((limit) => {
      const out = seen.flatMap((one) => one.failed.filter((check) => check.limit === limit));
      const alone = seen.filter((one) => one.failed.length === 1 && one.failed[0].limit === limit).length;
      return { limit, kept: seen.length - out.length, out, alone };
    });
    const distance = ({ failed }) => {
      const misses = failed.filter((check) => check.miss !== null);
      return [failed.length - misses.length, misses.length, misses.reduce((total, check) => total + share(check), 0)];
    };
    const nearer = (a, b) => {
      const [ours, theirs] = [distance(a), distance(b)];
      const at = ours.findIndex((value, place) => value !== theirs[place]);
      return at >= 0 && ours[at] < theirs[at];
    };
    const nearest = feasible.length ? null : seen.reduce((best, one) => (best === null || nearer(one, best) ? one : best), null);
    return { winner, candidates, told, confidence, feasible, passedOver: feasible.length - chosen.length, exclusions, nearest };
  };
})();
