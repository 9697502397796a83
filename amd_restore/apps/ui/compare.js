export default {
  template: `
    <div class="compare" :class="{actual: actual}">
      <div v-if="before" class="compare-frame" :style="frame">
        <img v-if="after" class="compare-after" :src="after" alt="Restored picture" draggable="false" />
        <img v-if="after && overlay" class="compare-after compare-overlay" :src="overlay"
             alt="Uncertainty map: light where the restoration is likely wrong" draggable="false" />
        <img class="compare-before" :class="{alone: !after}" :src="before" alt="Input picture" draggable="false" />
        <template v-if="after">
          <div class="compare-line"></div>
          <input type="range" min="0" max="100" step="0.1" v-model.number="position"
                 aria-label="Divider: input on its left, restoration on its right" />
        </template>
      </div>
    </div>
  `,
  props: {
    before: String,
    after: String,
    overlay: String,
    width: Number,
    height: Number,
    actual: Boolean,
  },
  data() {
    return { position: 50 };
  },
  computed: {
    frame() {
      const ratio = this.width / this.height;
      const width = this.actual ? `${this.width}px` : `min(100%, ${this.width}px, calc(72vh * ${ratio}))`;
      return { width, "aspect-ratio": `${this.width} / ${this.height}`, "--cut": `${this.position}%` };
    },
  },
};
