// Behaviour that all pages share. Pages work without it, but for the playground, charts and live data.

/** Show times in the viewer's time zone; the server writes them in UTC. */
export function showLocalTimes(root = document) {
  const today = new Date().toDateString();
  for (const element of root.querySelectorAll("time[datetime]:not([data-local])")) {
    const at = new Date(element.getAttribute("datetime"));
    const clock = at.toLocaleTimeString([], { hour12: false });
    const isToday = at.toDateString() === today;
    element.textContent = isToday ? clock : `${at.toLocaleDateString("sv-SE")} ${clock.slice(0, 5)}`;
    element.dataset.local = "";
  }
}

/** Return the token that proves to the server that a page of its own sends a request. */
export function formToken() {
  return document.querySelector('meta[name="form-token"]').content;
}

/** Copy a text, and say on the button for a moment whether the browser allowed it: it may not without HTTPS. */
export async function copyText(text, button) {
  const isCopied = await Promise.resolve(navigator.clipboard?.writeText(text).then(() => true)).catch(() => false);
  button.dataset.label ??= button.textContent;
  button.textContent = isCopied ? "Copied" : "Not allowed";
  setTimeout(() => (button.textContent = button.dataset.label), 1500);
}

function switchTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  document.cookie = `dragoman-theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=strict`;
  document.dispatchEvent(new CustomEvent("theme-changed"));
}

function switchMenu(event) {
  const isOpen = document.getElementById("side-body").classList.toggle("open");
  event.currentTarget.setAttribute("aria-expanded", String(isOpen));
}

document.getElementById("theme-switch")?.addEventListener("click", switchTheme);
document.getElementById("menu-switch")?.addEventListener("click", switchMenu);

for (const form of document.querySelectorAll("[data-submit-on-change]")) {
  form.addEventListener("change", (event) => {
    if (event.target.tagName === "SELECT") form.requestSubmit();
  });
}

// A form is sent once, however often its button is pressed: a deposit is booked by each sending.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || event.defaultPrevented) return;
  if (form.dataset.sent === undefined) form.dataset.sent = "";
  else event.preventDefault();
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("[data-sent]")) delete form.dataset.sent;
});

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copyText(document.querySelector(button.dataset.copy).textContent, button));
}

for (const element of document.querySelectorAll("[data-origin]")) {
  element.textContent = location.origin + (element.dataset.origin || "");
}

showLocalTimes();

// Further rows take the place of the link that had the focus, so the first of them gets it.
let lastRow = null;
document.addEventListener("click", (event) => (lastRow = event.target.closest("#more-row")?.previousElementSibling), true);
document.addEventListener("htmx:after:swap", () => {
  showLocalTimes();
  lastRow?.nextElementSibling?.querySelector("a")?.focus({ preventScroll: true });
  lastRow = null;
});

// Whatever was answered instead of further rows is shown as a page of its own.
document.addEventListener("htmx:response:error", (event) => {
  const link = event.target.closest("a");
  if (link !== null) location.assign(link.href);
});
