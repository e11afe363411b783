// What is in quarantine: more while scrolling, and another try.

import { scrollOn, withQuery } from "./shared.js";
import { retry } from "./retry.js";

const rows = document.getElementById("rows");
scrollOn(rows, document.getElementById("rows-end"),
  (last) => withQuery("/parts/rows", rows.dataset.query, { before: last.dataset.seq, as: "bad" }));
retry();
