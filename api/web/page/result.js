// One result: say whether it is right; arrows lead to its neighbours.

import { patch, say } from "./shared.js";
import { retry } from "./retry.js";

const result = document.getElementById("result");

async function tell(said) {
  try {
    await patch(result.dataset.id, result.dataset.etag, said);
    location.reload();
  } catch (error) {
    if (error.code === "precondition_failed") say("Somebody else has changed this meanwhile. Load the page again.");
    else say(error.message);
  }
}

const form = document.getElementById("say");
if (form) {
  const input = document.getElementById("say-label");
  const wasCorrected = input.value !== "";
  const label = document.getElementById("confirm").textContent.replace(/^Yes, /, "");
  document.getElementById("confirm").addEventListener("click",
    () => tell(wasCorrected ? { corrected_label: label } : { reviewed: true }));
  document.getElementById("take-back")?.addEventListener("click", () => tell({ reviewed: false }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    tell({ corrected_label: input.value.trim() });
  });
}

addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft") document.getElementById("newer-result")?.click();
  if (event.key === "ArrowRight") document.getElementById("older-result")?.click();
});

retry();
