// Several files by drop or choice: three at a time, each with its progress and its answer.

const AT_ONCE = 3;
const BUSY_S = 2;

export function uploads(form, list) {
  const input = form.querySelector("input[type=file]");
  const maxBytes = Number(form.dataset.maxBytes);
  const queue = [];
  let running = 0;

  function add(files) {
    for (const file of files) queue.push({ file, row: draw(list, file) });
    while (running < AT_ONCE && queue.length) work();
  }

  async function work() {
    running += 1;
    while (queue.length) {
      const { file, row } = queue.shift();
      if (file.size > maxBytes) row.fail(`Larger than the ${Math.floor(maxBytes / 2 ** 20)} MiB that are allowed.`);
      else await send(file, row);
    }
    running -= 1;
  }

  input.addEventListener("change", () => {
    add(input.files);
    input.value = "";
  });
  form.addEventListener("submit", (event) => event.preventDefault());

  // The whole page takes what is dropped: a near miss would make the browser leave for the picture.
  const isFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    form.classList.add("drop-over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) form.classList.remove("drop-over");
  });
  addEventListener("drop", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    form.classList.remove("drop-over");
    add(event.dataTransfer.files);
  });
}

/** One line of the list, and the ways in which it ends. */
function draw(list, file) {
  const row = document.createElement("li");
  row.className = "upload";
  const name = document.createElement("span");
  name.className = "upload-name";
  name.textContent = file.name;
  const answer = document.createElement("span");
  const progress = document.createElement("progress");
  progress.max = 1;
  progress.value = 0;
  progress.setAttribute("aria-label", `Upload of ${file.name}`);
  row.append(name, answer, progress);
  list.prepend(row);
  return {
    move: (share) => { progress.value = share; },
    say: (text) => { answer.textContent = text; },
    done: (result) => {
      const link = document.createElement("a");
      link.href = `/results/${encodeURIComponent(result.id)}`;
      link.textContent = `${result.label}, ${Math.round(100 * result.confidence)} %`;
      answer.replaceChildren(link);
      progress.remove();
    },
    fail: (text) => {
      const why = document.createElement("span");
      why.className = "upload-why";
      why.textContent = text;
      answer.textContent = "refused";
      progress.replaceWith(why);
    },
  };
}

async function send(file, row) {
  for (;;) {
    const answer = await post(file, row);
    const body = answer.body ?? {};
    if (answer.status === 503 || answer.status === 429) {
      row.say("waiting");
      await new Promise((resolve) => setTimeout(resolve, 1000 * (answer.retryAfterS || BUSY_S)));
      continue;
    }
    if (answer.status === 201) row.done(body);
    else row.fail(body.detail ?? (answer.status ? `The server answered ${answer.status}.` : "The server does not answer."));
    return;
  }
}

/** XMLHttpRequest, since fetch does not tell how far an upload is. */
function post(file, row) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    form.append("file", file);
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => row.move(event.loaded / event.total));
    request.addEventListener("loadend", () => resolve({
      status: request.status,
      body: request.response,
      retryAfterS: Number(request.getResponseHeader("Retry-After")),
    }));
    request.open("POST", "/v1/predict");
    request.send(form);
  });
}
