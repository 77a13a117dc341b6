// Explorers and guesses without a kernel: every frame and its sentence were drawn beforehand.
"use strict";

function play(box) {
  const { images, frames } = JSON.parse(box.querySelector("script").textContent);
  const controls = [...box.querySelectorAll("[data-count]")];
  const image = box.querySelector("img");
  const sentence = box.querySelector("[role=status]");
  const place = (control) => {
    if (control.type === "checkbox") return Number(control.checked);
    return control.tagName === "SELECT" ? control.selectedIndex : Number(control.value);
  };
  const show = () => {
    let at = 0;
    for (const control of controls) {
      at = at * Number(control.dataset.count) + place(control);
      if (control.type === "range") {
        const word = JSON.parse(control.dataset.words)[place(control)];
        control.setAttribute("aria-valuetext", word);
        control.nextElementSibling.textContent = word;
      }
    }
    const [number, words] = frames[at];
    image.src = images[number];
    image.alt = words;
    sentence.textContent = words;
  };
  // Whoever reaches for a control will want the other frames at once.
  const fetchAll = () => images.forEach((address) => { new Image().src = address; });
  box.addEventListener("pointerenter", fetchAll, { once: true });
  box.addEventListener("focusin", fetchAll, { once: true });
  box.addEventListener("input", show);
}

function ask(form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const field = form.querySelector("input");
    const told = form.querySelector(".course-answer");
    const said = field.value.trim();
    if (!said) {
      told.textContent = "Commit to a number first: any will do.";
      field.focus();
      return;
    }
    told.textContent = `You said ${said}; it is ${told.dataset.answer}.`;
    form.querySelector(".course-explanation").hidden = false;
  });
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".course-explorer").forEach(play);
  document.querySelectorAll(".course-guess").forEach(ask);
});
