// "Try again" for a file in quarantine.

import { ask, say } from "./shared.js";

export function retry() {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.retry");
    if (!button) return;
    button.disabled = true;
    try {
      await ask(`/v1/results/${button.dataset.id}/retry`, { method: "POST" });
      button.textContent = "In the inbox again";
      say("The file is in the inbox again; its new result comes in a moment.");
    } catch (error) {
      button.disabled = false;
      say(error.message);
    }
  });
}
