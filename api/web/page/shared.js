// What every view needs: times in the reader's zone, requests, one line of talk.

const FORMS = {
  time: { hour: "2-digit", minute: "2-digit" },
  day: { weekday: "short", hour: "2-digit" },
  full: { dateStyle: "medium", timeStyle: "medium" },
  today: { hour: "2-digit", minute: "2-digit", second: "2-digit" },
  before: { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" },
};
const formatters = new Map(); // to make one costs more than to use it a hundred times

function formatter(form) {
  if (!formatters.has(form)) formatters.set(form, new Intl.DateTimeFormat(undefined, FORMS[form]));
  return formatters.get(form);
}

/** Write the times below `root` in the reader's own zone; the exact one stays as a tooltip. */
export function localTimes(root = document) {
  const today = new Date().toDateString();
  for (const time of root.querySelectorAll("time:not([data-done])")) {
    const moment = new Date(time.dateTime);
    const form = time.dataset.form ?? (moment.toDateString() === today ? "today" : "before");
    time.title = time.dateTime;
    time.textContent = formatter(form).format(moment);
    time.dataset.done = "";
  }
}

/** Put a placeholder where a picture cannot be shown any more. */
export function watchPictures() {
  document.addEventListener("error", (event) => {
    if (event.target instanceof HTMLImageElement) {
      const none = document.createElement("span");
      none.className = "thumb-none";
      none.textContent = "–";
      event.target.replaceWith(none);
    }
  }, true);
}

let hush;

/** Say something to eyes and screen readers; it goes by itself. */
export function say(text) {
  const toast = document.getElementById("toast");
  toast.textContent = text;
  clearTimeout(hush);
  hush = setTimeout(() => { toast.textContent = ""; }, 6000);
}

/** A request to our own server; throws an Error whose message says what to do. */
export async function ask(url, options = {}) {
  let answer;
  try {
    answer = await fetch(url, options);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (answer.status === 401) {
    location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
    throw new Error("Sign in again.");
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    const error = new Error(problem.detail ?? `The server answered ${answer.status}.`);
    error.code = problem.code;
    throw error;
  }
  return answer;
}

/** Say what a result is: `{corrected_label}` or `{reviewed}`. Gives the new ETag. */
export async function patch(id, etag, said) {
  const answer = await ask(`/v1/results/${id}`, {
    method: "PATCH",
    headers: { "Content-Type": "application/json", "If-Match": etag },
    body: JSON.stringify(said),
  });
  return { etag: answer.headers.get("ETag"), result: await answer.json() };
}

/** Elements of a part of a page, as our own server drew it. */
export async function part(url) {
  const answer = await ask(url);
  const template = document.createElement("template");
  template.innerHTML = await answer.text();
  return { nodes: [...template.content.children], isAll: answer.headers.get("X-Rows") === "all" };
}

/** `?a=b` and more parameters: one address. */
export function withQuery(path, query, more = {}) {
  const all = new URLSearchParams(query);
  for (const [name, value] of Object.entries(more)) all.set(name, value);
  const text = all.toString();
  return text ? `${path}?${text}` : path;
}

/**
 * Fetch more rows whenever the end of the list comes near; gives a function that begins again, for
 * who has cut the list.
 *
 * When more cannot be fetched, `end` says why, with a link that tries again.
 */
export function scrollOn(list, end, url) {
  const link = document.createElement("a");
  link.textContent = "Older results";
  link.addEventListener("click", (event) => {
    event.preventDefault();
    more();
  });
  let isBusy = false;
  const observer = new IntersectionObserver((entries) => {
    // A busy page is told of several moves at once: only the last one says where the end is now.
    if (entries.at(-1).isIntersecting) more();
  }, { rootMargin: "1200px" });

  const last = () => [...list.querySelectorAll("[data-seq]")].at(-1);

  function watch() {
    end.textContent = "";
    observer.unobserve(end);
    observer.observe(end); // tells at once where the end is, moved or not
  }

  async function more() {
    if (isBusy) return;
    isBusy = true;
    const from = last();
    end.textContent = "Fetching more…";
    try {
      const { nodes, isAll } = await part(url(from));
      const isCut = last() !== from; // meanwhile; what came does not belong behind the new end
      if (!isCut && nodes.length) {
        nodes.forEach((node) => localTimes(node));
        list.append(chunk(nodes));
      }
      if (isCut || !isAll) watch();
      else {
        observer.unobserve(end);
        end.textContent = "That is all.";
      }
    } catch (error) {
      link.href = withQuery(location.pathname, location.search, { before: from.dataset.seq });
      end.replaceChildren(`${error.message} `, link);
    }
    isBusy = false;
  }

  if (list.dataset.atEnd !== "true") watch();
  return watch;
}

function chunk(nodes) {
  const item = document.createElement("li");
  const rows = document.createElement("ol");
  item.className = "chunk";
  rows.append(...nodes);
  item.append(rows);
  return item;
}

watchPictures();
requestAnimationFrame(() => setTimeout(localTimes)); // to be seen comes first: this costs as much as all else
