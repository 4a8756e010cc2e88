"""The drawing pad of the demo's page: its HTML, its style and what it does in the browser.

It draws with a finger, a mouse or the arrow keys, takes pictures that are dropped or chosen, and
shows those that the server sends as its value, `{"picture": data URL, "serial": int}`. It tells
the server of a drawing by the event `input` and of a file by `upload`, both with the data URL as
`picture`; of a file that is too large it tells the `size` only.
"""

from air_jax.scene_view import MAX_BYTES, PEN_PIXELS

# With black they are told apart by all kinds of colour vision, but for green and yellow.
_COLOURS = {
    "red": "#ff4136",
    "yellow": "#ffdc00",
    "green": "#2ecc40",
    "cyan": "#39cccc",
    "blue": "#3d7bff",
    "pink": "#f0409f",
}

STYLE = """
.pad .surface { position: relative; line-height: 0; }
.pad canvas { width: 100%; aspect-ratio: 1; background: black; border-radius: 6px;
  touch-action: none; cursor: crosshair; image-rendering: pixelated; }
.pad canvas:focus-visible, .pad .file:focus-within { outline: 3px solid #5c9dff;
  outline-offset: 2px; }
.pad .surface.over canvas { outline: 3px dashed #5c9dff; }
.pad .cursor { position: absolute; width: 14px; height: 14px; margin: -7px; border-radius: 50%;
  border: 2px solid #ffc233; pointer-events: none; }
.pad .tools { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin-top: 8px; }
.pad .tools button, .pad .file { font: inherit; line-height: 1.3; padding: 7px 12px;
  border-radius: 6px; cursor: pointer; color: var(--body-text-color);
  background: var(--button-secondary-background-fill);
  border: 1px solid var(--border-color-primary); }
.pad .file { position: relative; overflow: hidden; }
.pad .file input { position: absolute; inset: 0; opacity: 0; cursor: pointer; font-size: 0; }
.pad .width { display: flex; gap: 6px; align-items: center; flex: 1 1 120px; }
.pad .width input { flex: 1; min-width: 60px; accent-color: #5c9dff; }
.pad .tools button.colour { width: 32px; height: 32px; padding: 0; border: 2px solid transparent; }
.pad .tools button.colour[aria-pressed=true] { border-color: var(--body-text-color); }
.pad .hint { margin: 8px 0 0; font-size: 13px; color: var(--body-text-color-subdued); }
@media (pointer: coarse) { .pad .keys { display: none; } }
"""


def html(image_size: int, channels: int) -> str:
    """The pad's elements.

    Args:
      image_size: of the model, pixels.
      channels: of the model; with 3 there are colours to draw with.
    """
    side = PEN_PIXELS * image_size
    # Of a digit's stroke, or of what fills a shape.
    width = round(side * (0.05 if channels == 1 else 0.12))
    swatches = [
        f'<button type="button" class="colour" data-colour="{code}" style="background:{code}" '
        f'aria-label="{name} pen" aria-pressed="{str(i == 0).lower()}"></button>'
        for i, (name, code) in enumerate(_COLOURS.items())
    ]
    colours = f'<div class="tools">{"".join(swatches)}</div>' if channels == 3 else ""
    return f"""
<div class="pad">
  <div class="surface">
    <canvas width="{side}" height="{side}" tabindex="0" role="img"
      aria-label="Drawing pad. Arrow keys move the pen, with Shift they draw."></canvas>
    <span class="cursor" hidden></span>
  </div>
  <div class="tools">
    <button type="button" data-tool="clear">Clear</button>
    <button type="button" data-tool="undo">Undo</button>
    <label class="file">Open a picture<input type="file" accept="image/png,image/jpeg"
      aria-label="Open a picture"></label>
    <label class="width">Pen <input type="range" min="{side // 50}" max="{side // 4}"
      value="{width}" aria-label="Width of the pen"></label>
  </div>
  {colours}
  <p class="hint">Draw here, or drop a PNG or JPEG. <span class="keys">By keyboard: arrows move
    the pen, Shift and arrows draw.</span></p>
</div>
"""


SCRIPT = """
const canvas = element.querySelector('canvas');
const surface = element.querySelector('.surface');
const cursor = element.querySelector('.cursor');
const width = element.querySelector('.width input');
const swatches = [...element.querySelectorAll('.colour')];
const pen = canvas.getContext('2d', {willReadFrequently: true});
const side = canvas.width;
const limit = MAX_BYTES;
let colour = swatches.length ? swatches[0].dataset.colour : '#ffffff';
let last = null, past = [], place = [side / 2, side / 2], waiting = null;

const blank = () => { pen.fillStyle = 'black'; pen.fillRect(0, 0, side, side); };
const remember = () => {
  past = [...past.slice(-19), pen.getImageData(0, 0, side, side)];
};
const send = () => trigger('input', {picture: canvas.toDataURL('image/png')});
const line = (from, to) => {
  pen.strokeStyle = colour;
  pen.lineWidth = Number(width.value);
  pen.lineCap = pen.lineJoin = 'round';
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(to[0] + 0.01, to[1]);
  pen.stroke();
};
const at = event => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top].map(x => x * side / box.width);
};
const finish = () => { if (last) { last = null; send(); } };

canvas.addEventListener('pointerdown', event => {
  if (event.button) return;
  canvas.setPointerCapture(event.pointerId);
  cursor.hidden = true;
  remember();
  last = place = at(event);
  line(last, last);
});
canvas.addEventListener('pointermove', event => {
  if (!last) return;
  const next = at(event);
  line(last, next);
  last = place = next;
});
canvas.addEventListener('pointerup', finish);
canvas.addEventListener('pointercancel', finish);

const moves = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
canvas.addEventListener('keydown', event => {
  const move = moves[event.key];
  if (!move) return;
  event.preventDefault();
  const next = place.map((x, i) => Math.min(side, Math.max(0, x + move[i] * side / 25)));
  if (event.shiftKey) {
    if (!waiting) remember();
    line(place, next);
    clearTimeout(waiting);
    waiting = setTimeout(() => { waiting = null; send(); }, 300);
  }
  place = next;
  cursor.style.left = 100 * place[0] / side + '%';
  cursor.style.top = 100 * place[1] / side + '%';
  cursor.hidden = false;
});
canvas.addEventListener('blur', () => { cursor.hidden = true; });

element.querySelector('[data-tool=clear]').addEventListener('click', () => {
  remember();
  blank();
  send();
});
element.querySelector('[data-tool=undo]').addEventListener('click', () => {
  if (!past.length) return;
  pen.putImageData(past.pop(), 0, 0);
  send();
});
for (const swatch of swatches) {
  swatch.addEventListener('click', () => {
    colour = swatch.dataset.colour;
    for (const other of swatches) other.setAttribute('aria-pressed', other === swatch);
  });
}

const open = file => {
  if (!file) return;
  if (file.size > limit) { trigger('upload', {size: file.size}); return; }
  const reader = new FileReader();
  reader.onload = () => trigger('upload', {picture: reader.result});
  reader.readAsDataURL(file);
};
const chooser = element.querySelector('input[type=file]');
chooser.addEventListener('change', () => { open(chooser.files[0]); chooser.value = ''; });
surface.addEventListener('dragover', event => {
  event.preventDefault();
  surface.classList.add('over');
});
surface.addEventListener('dragleave', () => surface.classList.remove('over'));
surface.addEventListener('drop', event => {
  event.preventDefault();
  surface.classList.remove('over');
  open(event.dataTransfer.files[0]);
});

const show = () => {
  if (!props.value || !props.value.picture) return;
  const picture = new Image();
  picture.onload = () => {
    remember();
    pen.imageSmoothingEnabled = false;
    pen.drawImage(picture, 0, 0, side, side);
  };
  picture.src = props.value.picture;
};
blank();
watch('value', show);
show();
""".replace("MAX_BYTES", str(MAX_BYTES))
