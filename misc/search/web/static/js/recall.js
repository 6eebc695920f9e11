// R@k over the distinct annotated sentences searched for so far.

import { $, count } from "./dom.js";

const firstRight = new Map(); // sentence -> rank of its first correct image, or Infinity

export function updateRecall(text, answer) {
  if (!("first_right" in answer)) return;
  firstRight.set(text, answer.first_right ?? Infinity);
  const ranks = [...firstRight.values()];
  const share = (k) => ((100 * ranks.filter((rank) => rank <= k).length) / ranks.length).toFixed(1);
  const shares = [1, 5, 10].map((k) => `R@${k} ${share(k)} %`).join(" · ");
  $("recall").textContent = `${count(ranks.length, "annotated sentence")}: ${shares}`;
  $("recall").hidden = false;
}
