// Markdown to DOM nodes, for the output of models, which nobody trusts: every text becomes a text node, no HTML is ever
// parsed, links lead to http, https and mailto only, and images are shown as links. A subset: paragraphs, headings,
// lists, quotes, fenced code, tables, rules; in them code, strong, emphasis, strikethrough, links.

const SAFE_LINK = /^(https?:\/\/|mailto:)/i;
const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)\s*$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const INLINE =
  /(`+)([\s\S]*?[^`])\1(?!`)|!?\[([^\]\n]*)\]\(\s*<?([^\s)>]+)>?(?:\s+"[^"]*")?\s*\)|\*\*([\s\S]+?)\*\*|__([\s\S]+?)__|~~([\s\S]+?)~~|\*([^*\s][^*]*?)\*|(?<![\w])_([^_\s][^_]*?)_(?![\w])|(https?:\/\/[^\s<>()]+[^\s<>().,;:!?'"])/;

const MOST_DEPTH = 8;

/** Return a fragment with the rendered text. */
export function renderMarkdown(text) {
  const fragment = document.createDocumentFragment();
  renderBlocks(text.replaceAll("\r\n", "\n").split("\n"), fragment, 0);
  return fragment;
}

function element(name, parent, text) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function renderBlocks(lines, parent, depth) {
  let index = 0;
  let paragraph = [];
  const endParagraph = () => {
    if (paragraph.length) renderInline(paragraph.join("\n"), element("p", parent), 0);
    paragraph = [];
  };
  while (index < lines.length) {
    const line = lines[index];
    const fence = line.match(FENCE);
    if (fence) {
      endParagraph();
      const code = [];
      index += 1;
      while (index < lines.length && !isClosing(lines[index], fence[1])) code.push(lines[index++]);
      index += 1;
      const pre = element("pre", parent);
      pre.className = "code";
      pre.tabIndex = 0;
      element("code", pre, code.join("\n"));
    } else if (!line.trim()) {
      endParagraph();
      index += 1;
    } else if (HEADING.test(line)) {
      endParagraph();
      const [, marks, title] = line.match(HEADING);
      renderInline(title, element(`h${Math.min(6, marks.length + 2)}`, parent), 0);
      index += 1;
    } else if (RULE.test(line)) {
      endParagraph();
      element("hr", parent);
      index += 1;
    } else if (/^ {0,3}>/.test(line) && depth < MOST_DEPTH) {
      endParagraph();
      const quoted = [];
      while (index < lines.length && /^ {0,3}>/.test(lines[index])) quoted.push(lines[index++].replace(/^ {0,3}> ?/, ""));
      renderBlocks(quoted, element("blockquote", parent), depth + 1);
    } else if (ITEM.test(line) && depth < MOST_DEPTH) {
      endParagraph();
      index = renderList(lines, index, parent, depth);
    } else if (line.includes("|") && index + 1 < lines.length && lines[index + 1].includes("-") && TABLE_RULE.test(lines[index + 1])) {
      endParagraph();
      index = renderTable(lines, index, parent);
    } else {
      paragraph.push(line);
      index += 1;
    }
  }
  endParagraph();
}

function isClosing(line, fence) {
  const trimmed = line.trim();
  return trimmed.length >= fence.length && [...trimmed].every((character) => character === fence[0]);
}

function renderList(lines, index, parent, depth) {
  const [, indent, mark] = lines[index].match(ITEM);
  const isOrdered = /\d/.test(mark);
  const list = element(isOrdered ? "ol" : "ul", parent);
  if (isOrdered) list.start = Number.parseInt(mark, 10);
  while (index < lines.length) {
    const match = lines[index].match(ITEM);
    if (!match || match[1].length !== indent.length || /\d/.test(match[2]) !== isOrdered) break;
    const content = [match[3]];
    index += 1;
    while (index < lines.length) {
      const line = lines[index];
      const leading = line.match(/^ */)[0].length;
      if (!line.trim() && index + 1 < lines.length && lines[index + 1].match(/^ */)[0].length > indent.length) content.push("");
      else if (line.trim() && leading > indent.length) content.push(line.slice(Math.min(leading, indent.length + 2)));
      else break;
      index += 1;
    }
    const item = element("li", list);
    if (content.length === 1) renderInline(content[0], item, 0);
    else renderBlocks(content, item, depth + 1);
  }
  return index;
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
}

function renderTable(lines, index, parent) {
  const wrap = element("div", parent);
  wrap.className = "table-wrap";
  wrap.tabIndex = 0;
  const table = element("table", wrap);
  const head = element("tr", element("thead", table));
  for (const cell of cells(lines[index])) renderInline(cell, element("th", head), 0);
  const body = element("tbody", table);
  index += 2;
  while (index < lines.length && lines[index].includes("|")) {
    const row = element("tr", body);
    for (const cell of cells(lines[index++])) renderInline(cell, element("td", row), 0);
  }
  return index;
}

function renderInline(text, parent, depth) {
  let rest = text;
  while (rest) {
    const match = depth < MOST_DEPTH ? rest.match(INLINE) : null;
    if (!match) {
      parent.append(rest);
      return;
    }
    if (match.index) parent.append(rest.slice(0, match.index));
    rest = rest.slice(match.index + match[0].length);
    const [whole, , code, label, target, strong, strongToo, struck, emphasis, emphasisToo, bare] = match;
    if (code !== undefined) element("code", parent, code.replace(/^ (.*) $/s, "$1"));
    else if (label !== undefined) renderLink(label || target, target, parent, whole, depth);
    else if (bare !== undefined) renderLink(bare, bare, parent, whole, MOST_DEPTH);
    else if (strong ?? strongToo) renderInline(strong ?? strongToo, element("strong", parent), depth + 1);
    else if (struck) renderInline(struck, element("s", parent), depth + 1);
    else renderInline(emphasis ?? emphasisToo, element("em", parent), depth + 1);
  }
}

function renderLink(label, target, parent, whole, depth) {
  if (!SAFE_LINK.test(target)) {
    parent.append(whole);
    return;
  }
  const link = element("a", parent);
  link.href = target;
  link.rel = "noopener noreferrer nofollow";
  link.target = "_blank";
  renderInline(label, link, depth + 1);
}
