// The audit's table: words and choices leave the rows that fit all of them.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector(".course-filter");
  if (!form) return;
  const rows = [...document.querySelectorAll(".course-audit tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const count = document.querySelector(".course-count");
  const field = form.querySelector("input");
  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = [...form.querySelectorAll("select")].filter((one) => one.value);
    let left = 0;
    rows.forEach((row, at) => {
      const fits = words.every((word) => texts[at].includes(word)) && wanted.every((one) => {
        const has = row.dataset[one.dataset.field];
        return has === one.value || (one.dataset.field === "text" && has.split(", ").includes(one.value));
      });
      row.hidden = !fits;
      left += fits;
    });
    count.textContent = `${left} of ${rows.length} claims.`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
});
