"""How a page looks and feels, measured in a real browser.

Invariant: each measure is of what is rendered; nothing here knows which page it is.
"""

from __future__ import annotations

from typing import Any

from selenium.webdriver import Chrome

PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}

SMALL_TARGETS = """
return [...document.querySelectorAll("a, button, input, select, textarea, summary")]
  .map((node) => node.type === "checkbox" ? node.closest("label") : node)
  .filter((node) => node.checkVisibility())
  .filter((node) => {
    const {width, height} = node.getBoundingClientRect();
    return width < 43.5 || height < 43.5;
  })
  .map((node) => node.outerHTML);
"""

LOW_CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgba = (color) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = (color) => {
  const [r, g, b] = color.map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const color = rgba(getComputedStyle(at).backgroundColor);
    if (color[3] === 255) return color;
  }
  return rgba("Canvas");
};
// A colour that is on its way to another is none that anybody reads by.
for (const one of document.getAnimations()) if (one instanceof CSSTransition) one.finish();
const speaks = (node) => [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
const found = [...document.body.querySelectorAll("*")]
  .filter((node) => speaks(node) && node.checkVisibility())
  .filter((node) => !node.closest("[aria-disabled=true], option, template"))
  .map((node) => {
    const pair = [light(rgba(getComputedStyle(node).color)), light(ground(node))];
    return [(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), node.outerHTML];
  });
return [light(ground(document.body)), found.length, found.filter(([ratio]) => ratio < 4.5)];
"""

NAMED = {
    "article",
    "button",
    "checkbox",
    "combobox",
    "link",
    "log",
    "progressbar",
    "slider",
    "table",
    "textbox",
}


def emulate_phone(driver: Chrome, width: int) -> None:
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE | {"width": width})


def emulate_scheme(driver: Chrome, scheme: str) -> None:
    """`light` or `dark`."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def emulate_nothing(driver: Chrome) -> None:
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def width_of(driver: Chrome) -> int:
    """What a finger could scroll over, in pixels."""
    return int(driver.execute_script("return document.documentElement.scrollWidth"))


def small_targets(driver: Chrome) -> list[str]:
    """What is meant to be hit and is smaller than a finger."""
    found: list[str] = driver.execute_script(SMALL_TARGETS)
    return found


def contrasts(driver: Chrome) -> tuple[float, int, list[Any]]:
    """How light the ground is; how many texts were looked at; those that are hard to read."""
    ground, seen, low = driver.execute_script(LOW_CONTRAST)
    return ground, seen, low


def named(driver: Chrome) -> list[tuple[str, str]]:
    """Role and name, as a screen reader has them, of what must have a name."""
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    return [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"].lower() in NAMED
    ]


def focused(driver: Chrome) -> str:
    """The id, else what it is, else the tag, of what has the focus, which must be seen."""
    node = driver.switch_to.active_element
    outline = float(node.value_of_css_property("outline-width").removesuffix("px"))
    assert outline >= 2, "the focus can be seen"
    return node.get_attribute("id") or node.get_attribute("data-is") or node.tag_name
