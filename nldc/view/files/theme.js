const root = document.documentElement;
const themeButton = document.getElementById("theme");
function setTheme(dark) {
  root.dataset.theme = dark ? "dark" : "light";
  themeButton.textContent = dark ? "Light" : "Dark";
}
setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
themeButton.addEventListener("click", () => setTheme(root.dataset.theme !== "dark"));
const dataOf = (name) => JSON.parse(document.getElementById(name).textContent);
