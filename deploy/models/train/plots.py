# SPDX-License-Identifier: Apache-2.0
"""The plots: plain data in the template language of grammar.py.

`{hero}`, `{friend}` and `{guest}` are characters (`.kind .trait .size .he .him .his`), `{toy}` has
a `.color`, `{food}` and `{other_food}` have a `.some` ("a cake"), `{place}` and `{far}` have an
`.at` ("in the forest") and a `.cover` ("tree"). corpus.py draws all of them once per story, which
is what keeps a story consistent.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plot:
    sentences: tuple
    questions: tuple      # (question, answer) pairs that the story itself answers
    moral: str
    has_friend: bool      # the friend appears, so the ending may name both
    has_toy: bool         # the toy matters, so a reader may ask for it
    weight: int = 1       # how often the plot is drawn, relative to the others


OPENING = (
    "[Once upon a time, there was a {hero.size} {hero.kind} named {hero}. {hero.he} {lived}."
    "|Once upon a time, a {hero.size} {hero.kind} named {hero} {lived}."
    "|Once upon a time, [near the {place}|{place.at}], there lived a {hero.trait} {hero.kind}."
    " {hero.his} name was {hero}."
    "|Once there was a {hero.trait} {hero.kind} called {hero}. {hero.he} {lived}."
    "|One {weather} day, a {hero.size} {hero.kind} named {hero}"
    " [went for a walk|was playing|sat down] {place.at}."
    "|There was once a {hero.trait} {hero.kind} whose name was {hero}. {hero.he} {lived}."
    "|Long ago, a {hero.trait} {hero.kind} named {hero} {lived}.]",
    "[|{hero} was [very|always] {hero.trait}."
    "|Everyone [knew that {hero} was|said that {hero.he} was] {hero.trait}."
    "|{hero.he} was a {hero.trait} {hero.kind}, and {hero.he} [liked to|loved to]"
    " [sing|run|play|read|help others|look at the stars]."
    "|{weather_line}]",
)

LIVED = ("[lived [in a {house} house|in a {house} home] [near the {place}|{place.at}]"
         "|lived [near the {place}|{place.at}]"
         "|had a {house} house [near the {place}|{place.at}]]")

ENDINGS = (
    "That night, {hero} slept [very well|with a smile].",
    "{hero} was [very happy|so glad|full of joy].",
    "{hero} never forgot that day.",
    "It was the best day of all.",
    "Then {hero} went home and told {hero.his} {parent} [everything|about the day].",
)
ENDINGS_WITH_FRIEND = (
    "They [laughed|smiled|danced] and went home [together|before dark].",
    "From that day on, {hero} and {friend} were [best|good] friends.",
    "And they all lived happily ever after.",
)
# `{moral}` is a sentence, `{lesson}` the same one inside another sentence.
MORALS = ("", "", "{moral}", "{hero} learned that {lesson}",
          "And so {hero} learned [a good lesson|something new]: {lesson}")

FRIEND_COMES = (
    "[Just then, a {friend.trait} {friend.kind} named {friend} came [along|by]."
    "|{hero.his} friend {friend}, a {friend.trait} {friend.kind},"
    " [heard the noise|came to see|was near]."
    "|Then {hero} met a {friend.kind} named {friend}."
    "|[Soon|After a while], a {friend.size} {friend.kind} came down the road."
    " {friend.his} name was {friend}.]"
)
FRIEND_ASKS = (
    '["What is wrong?" asked [{friend}|the {friend.kind}].'
    '|"Why are you so sad?" {friend} asked.'
    '|[{friend}|The {friend.kind}] asked,'
    ' "[Can I help you|Do you need help|What happened]?"'
    '|"You look [sad|worried]," said [{friend}|the {friend.kind}].]'
)

LOST = Plot(
    sentences=(
        "{hero} had a {toy.color} {toy}. [The {toy} was {hero.his} favorite thing."
        "|{hero.he} took the {toy} everywhere.|The {toy} was a gift from {hero.his} {parent}.]",
        "One {weather} [day|morning|afternoon], the {toy.color} {toy} [fell out of {hero.his} bag"
        "|rolled away|was gone when {hero.he} woke up|slipped from {hero.his} hand].",
        '[{hero} was very sad. "Where is my {toy}?"|{hero} began to cry for the {toy.color} {toy}.'
        '|"Oh no! Where is my {toy}?" said {hero}.'
        '|"My {toy} is gone!" cried [{hero}|the {hero.kind}].]',
        "{hero.he} looked [behind|under|next to] the {place.cover} {place.at},"
        " but the {toy} was not there.",
        "[|Then {hero.he} looked {far.at}, but [it was not there either"
        "|all {hero.he} found was an old shoe|there was no {toy}].]",
        FRIEND_COMES,
        FRIEND_ASKS,
        '"I lost my {toy.color} {toy}," [said {hero}|{hero} said sadly|{hero} answered].',
        '"[Do not worry|Do not cry|Let us look together]," said [{friend}|the {friend.kind}].'
        ' "[I will help you find the {toy}|We will find your {toy}'
        '|Two can look better than one]."',
        "They [looked and looked|walked for a long time|looked everywhere].",
        "[At last, {friend} [saw|found] something {toy.color} [behind|under] the {far.cover}"
        " {far.at}. It was the {toy}!"
        "|Then {friend} looked [behind|under] the {far.cover} {far.at}."
        " There was the {toy.color} {toy}!]",
        '["Thank you, {friend}!" said {hero}, and held the {toy} tight.'
        '|{hero} [hugged|thanked] {friend}. "You are a [good|true|real] friend," {hero.he} said.'
        '|"You found my {toy}! Thank you!" cried [{hero}|the {hero.kind}].]',
    ),
    questions=(
        ("What did {hero} lose?", "{hero} lost a {toy.color} {toy}."),
        ("Who found the {toy}?", "{friend} the {friend.kind} found the {toy}."),
        ("Where was the {toy}?", "The {toy} was {far.at}."),
    ),
    moral="A good friend helps when you are sad.",
    has_friend=True, has_toy=True, weight=2,
)

BROKEN = Plot(
    sentences=(
        "{hero} [liked|loved] to play with {hero.his} {toy.color} {toy}.",
        "One day, {hero.he} [ran too fast|was not careful|tripped on a stone]"
        " and the {toy.color} {toy} [broke|fell and broke|cracked].",
        '["Oh no, my {toy}!" said {hero}.|{hero} felt very bad about the {toy}.'
        "|{hero} did not know what to do with the broken {toy}.]",
        FRIEND_COMES,
        FRIEND_ASKS,
        '"My {toy.color} {toy} is broken," said {hero}.',
        '"[I can fix the {toy}|I know what to do|We can fix your {toy} together],"'
        ' said [{friend}|the {friend.kind}]. "[But I need|We need|Bring me] {tool}."',
        "So {hero} [ran home|went to the {far}|looked {place.at}]"
        " and [came back with|found|got] {tool}.",
        "They worked on the {toy} [all day|for an hour|until the sun went down].",
        "[Soon the {toy.color} {toy} was as good as new."
        "|When they were done, the {toy.color} {toy} looked [even better|like new].]",
        '["My {toy} works!" [cried|said] [{hero}|the {hero.kind}].'
        "|{hero} was so happy that {hero.he} [jumped|sang|danced] with the {toy}.]",
        "[To say thank you, {hero} gave {friend} {food.some}."
        '|"Thank you for your help," said {hero}.]',
    ),
    questions=(
        ("What broke?", "The {toy.color} {toy} broke."),
        ("What did they need?", "They needed {tool}."),
        ("Who fixed the {toy}?", "{friend} and {hero} fixed the {toy} together."),
    ),
    moral="Broken things can be fixed with [patience|a little help].",
    has_friend=True, has_toy=True,
)

SHARE = Plot(
    sentences=(
        "One {weather} day, {hero} [took|packed|carried] {food.some} for lunch"
        " and walked to the {place}.",
        "There {hero.he} [met|saw] a {friend.kind} named {friend},"
        " who [sat alone|looked thin and tired|was crying].",
        '"[I am so hungry|I have nothing to eat|My lunch is gone],"'
        ' said [{friend}|the {friend.kind}].',
        "[{hero} looked at {hero.his} {food}. {hero.he} was hungry too."
        "|{hero} [thought for a moment|did not wait].]",
        '"[You can have half|We can share my {food}|Eat with me]," said {hero}.',
        "They sat [by the {place.cover}|down] and ate the {food} together.",
        "[The next day|Later|A week later], {hero}"
        " [was lost|could not find the way home|hurt {hero.his} foot] {far.at}.",
        "[{friend} [heard|saw] {hero.him} and came [running|at once]."
        "|Who came to help? It was {friend}!]",
        '"[You helped me, so I will help you|You were kind to me. Now it is my turn],"'
        " said [{friend}|the {friend.kind}].",
        "{friend} [took {hero.him} home|showed {hero.him} the way"
        "|held {hero.his} hand all the way home].",
    ),
    questions=(
        ("What did {hero} share?", "{hero} shared {food.some}."),
        ("Who was hungry?", "{friend} the {friend.kind} was hungry."),
        ("Why did {friend} help {hero}?", "Because {hero} was kind and shared the {food}."),
    ),
    moral="Kindness comes back to you.",
    has_friend=True, has_toy=False,
)

STUCK = Plot(
    sentences=(
        "{hero} was playing with a {toy.color} {toy} {place.at}.",
        "[Suddenly|Then], [a strong wind came|{hero.he} threw the {toy} too high],"
        " and the {toy.color} {toy} got stuck in a [tall|high|very old] tree.",
        "{hero} [jumped|jumped and jumped] for the {toy}, but {hero.he} was too [small|short].",
        "[{hero.he} tried to [climb|reach the {toy} with a stick],"
        " but {hero.he} [fell down|could not do it]."
        "|{hero.he} threw a stone at the {toy}, but it missed."
        "|{hero.he} called for help, but no one [came|heard {hero.him}].]",
        FRIEND_COMES,
        FRIEND_ASKS,
        '"My {toy.color} {toy} is in the tree, and I can not reach it," said {hero}.',
        '"[Let me try|I can help|That is easy for me]," said [{friend}|the {friend.kind}].',
        "{friend} {rescue}.",
        "The {toy.color} {toy} [came down|fell to the ground], and {hero} caught it.",
        '["Hooray! My {toy}!" [shouted|cried] {hero}.|"Thank you so much!" said {hero}.]',
        "[Then they played with the {toy} [together|until dark]."
        "|After that, they took turns with the {toy}.]",
    ),
    questions=(
        ("What got stuck?", "The {toy.color} {toy} got stuck in a tree."),
        ("Who got the {toy} down?", "{friend} the {friend.kind} got the {toy} down."),
        ("Where was {hero} playing?", "{hero} was playing {place.at}."),
    ),
    moral="Everyone is good at something.",
    has_friend=True, has_toy=True, weight=2,
)

FEAR = Plot(
    sentences=(
        "{hero} was afraid of the dark.",
        "One [cold|windy|rainy|quiet] night, {hero.he} heard {noise}.",
        '"[What was that|Who is there|Is it a monster]?" {hero.he} [whispered|asked].',
        "{hero} [hid under {hero.his} blanket|called for {hero.his} {parent}].",
        "Then the noise came again.",
        "[{hero.his} {parent} came in with a [lamp|candle]."
        "|{hero} [took a deep breath|counted to three] and [lit a candle|got out of bed].]",
        "{hero.he} looked [out of the window|behind the door|under the bed],"
        " [very slowly|step by step].",
        "It was only {noise_maker}!",
        "{hero} [laughed|began to laugh|smiled]. There was [no monster|nothing to fear].",
        "After that, {hero.he} was not afraid [any more|of the dark].",
    ),
    questions=(
        ("What did {hero} hear?", "{hero} heard {noise}."),
        ("What made the noise?", "It was only {noise_maker}."),
        ("What was {hero} afraid of?", "{hero} was afraid of the dark."),
    ),
    moral="Many scary things are small when you look at them.",
    has_friend=False, has_toy=False,
)

SKILL = Plot(
    sentences=(
        "{hero} wanted to learn to {skill}, but {hero.he}"
        " [did not know how|was not good at it|was afraid to try].",
        "[{hero.his} friend {friend}, a {friend.kind}, could {skill} very well."
        "|Every day {hero.he} watched a {friend.kind} named {friend},"
        " who could {skill} very well.]",
        '"[Can you teach me|Will you show me|Can I learn it too]?" asked {hero}.',
        '"[Yes|Of course|Sure]," said [{friend}|the {friend.kind}].'
        ' "[Watch me|First, watch me|You must try every day]."',
        "The first time, {hero} [fell|failed|made a mistake].",
        '["I can not do it," {hero.he} said.|{hero.he} wanted to give up.'
        "|Everyone laughed, and {hero} [felt sad|turned red].]",
        '"[Try again|Do not give up|Every mistake helps you learn],"'
        ' said [{friend}|the {friend.kind}].',
        "So {hero} tried [again and again|{number} more times|every day for {number} weeks].",
        "[At last, {hero.he} could {skill} {skill_place}!"
        "|Then, one {weather} day, {hero} could {skill}!]",
        '["I did it!" [cried|shouted] [{hero}|the {hero.kind}].'
        "|{friend} [clapped|cheered] and everyone [clapped too|was proud].]",
    ),
    questions=(
        ("What did {hero} want to learn?", "{hero} wanted to learn to {skill}."),
        ("Who taught {hero}?", "{friend} the {friend.kind} taught {hero.him}."),
    ),
    moral="If you keep trying, you will get better.",
    has_friend=True, has_toy=False,
)

STORM = Plot(
    sentences=(
        "One day, {hero} was walking [to|home from] the {far}"
        " with {hero.his} {toy.color} {toy}.",
        "[Suddenly|All at once], the sky turned dark and it began to [rain|snow|storm].",
        "{hero} held the {toy} tight."
        " {hero.he} was [cold and wet|far from home|shaking with cold].",
        "{hero.he} [saw|found] a small house and knocked on the door.",
        'A {friend.trait} {friend.kind} opened it. "[Come in, come in|Please come in'
        '|You are all wet]!" said the {friend.kind}. "My name is {friend}."',
        "{friend} gave {hero.him} {food.some} and [a warm blanket|a seat by the fire].",
        '"[What a nice|I like your] {toy.color} {toy}," said [{friend}|the {friend.kind}].',
        "[They [told stories|played a game|sang songs] until the [storm|rain] was over."
        "|Outside the wind was loud, but inside it was warm.]",
        'When the sky was clear, {hero} said, "[Thank you for your help|You are very kind'
        '|I will not forget this]."',
        "[{hero.he} gave the {toy.color} {toy} to {friend} as a gift."
        "|The next day, {hero} came back with the {toy} and {other_food.some} for {friend}.]",
    ),
    questions=(
        ("Who opened the door?", "A {friend.kind} named {friend} opened the door."),
        ("What did {friend} give {hero}?", "{friend} gave {hero.him} {food.some}."),
        ("What did {hero} carry?", "{hero} had a {toy.color} {toy}."),
    ),
    moral="A warm heart is better than a warm house.",
    has_friend=True, has_toy=True,
)

GIFT = Plot(
    sentences=(
        "Tomorrow was {friend}'s birthday. {friend} was a {friend.kind},"
        " and {friend.he} was {hero}'s best friend.",
        "{hero} wanted to give {friend.him} a [special|nice|wonderful] gift,"
        " but {hero.he} had no money.",
        '"What can I do?" {hero} [thought|asked {hero.his} {parent}].',
        '["Make a {toy} with your own hands," said {hero.his} {parent}.'
        "|Then {hero.he} had [an idea|a good idea]. {hero.he} would make a {toy}.]",
        "{hero} found some [old wood|cloth|paper|string] and some {toy.color} paint.",
        "{hero.he} worked on the {toy} [all night|all day|for a long time]."
        " It was a fine {toy.color} {toy}.",
        "At the party, {guest} the {guest.kind} gave {friend} a big [box|cake],"
        " and {hero} felt [shy|small].",
        "But when {friend} saw the {toy.color} {toy},"
        " {friend.he} [smiled|jumped for joy|laughed].",
        '"[This {toy} is the best gift of all|I love this {toy}'
        '|You made this {toy} for me]!" said [{friend}|the {friend.kind}].',
        "Then they all ate {food.some} [and played|and sang].",
    ),
    questions=(
        ("What did {hero} make?", "{hero} made a {toy.color} {toy}."),
        ("Whose birthday was it?", "It was {friend}'s birthday."),
        ("Who gave {friend} a big gift?", "{guest} the {guest.kind} did."),
    ),
    moral="A gift from the heart is the best gift.",
    has_friend=True, has_toy=True,
)

SEED = Plot(
    sentences=(
        "One day, {hero} found a [small|tiny] {seed} seed {place.at}.",
        '"What [is this|will it be]?" {hero.he} asked {hero.his} {parent}.',
        '"Plant the seed and wait," said {hero.his} {parent}.',
        "So {hero} [dug|made] a small hole and put the {seed} seed in the ground.",
        "Every [day|morning], {hero.he} gave it water.",
        "[After {number} days, nothing had happened."
        "|A week went by, but there was only dirt.]",
        '["It will never grow," said {guest} the {guest.kind}.'
        "|{hero} was sad, but {hero.he} did not give up."
        '|"Be patient," said {hero.his} {parent}.]',
        "Then, one {weather} morning, {hero.he} saw something green!",
        "It grew and grew. Soon it was {plant}.",
        "[{hero} showed it to everyone.|{hero} was very proud of it."
        "|All the [animals|neighbors|friends] came to see it.]",
    ),
    questions=(
        ("What did {hero} find?", "{hero} found a {seed} seed."),
        ("What did the seed become?", "It became {plant}."),
    ),
    moral="Good things take time.",
    has_friend=False, has_toy=False,
)

QUARREL = Plot(
    sentences=(
        "{hero} and {friend} were friends. {friend} was a {friend.trait} {friend.kind}.",
        "One day, they both wanted the {toy.color} {toy}.",
        '"The {toy} is mine!" said {hero}. "No, the {toy} is mine!"'
        ' said [{friend}|the {friend.kind}].',
        "They pulled and pulled, and then the {toy.color} {toy}"
        " [fell into the mud|fell in the water|broke].",
        "[{hero} was angry and went home.|Both of them were angry."
        "|They did not talk for {number} days.]",
        "[But it was no fun to play alone.|That night, {hero} could not sleep."
        "|{hero} missed {friend} very much.]",
        "[{hero} took {food.some} and went to see {friend}."
        "|So {hero.he} went to {friend}'s house and knocked on the door.]",
        '"I am sorry," said {hero}. "[You are more important than a {toy}|I was wrong'
        '|I should have shared the {toy}]."',
        '"I am sorry too," said [{friend}|the {friend.kind}].',
        "They [washed|cleaned|fixed] the {toy.color} {toy} together"
        " and [took turns|played with the {toy} all day].",
    ),
    questions=(
        ("What did they both want?", "They both wanted the {toy.color} {toy}."),
        ("Who said sorry first?", "{hero} said sorry first."),
        ("Who is {friend}?", "{friend} is a {friend.kind} and {hero}'s friend."),
    ),
    moral="It is good to say sorry.",
    has_friend=True, has_toy=True,
)

BOX = Plot(
    sentences=(
        "One {weather} day, {hero} was [walking|playing|digging] {place.at}.",
        "Behind the {place.cover}, {hero.he} [found|saw] an old {toy.color} box.",
        "The {toy.color} box was [locked|shut tight|very heavy].",
        '"I wonder what is inside," said {hero}.',
        "{hero.he} [pulled|pushed|shook it], but the box did not open.",
        FRIEND_COMES,
        '"[Look what I found|Can you help me open this {toy.color} box]!" said {hero}.',
        "[{friend} had a small key, and it fit!|Together, they pulled as hard as they could."
        "|{friend} hit the box with a stone.]",
        "The box opened with a [pop|crack|click]. Inside was {secret}!",
        '["[How wonderful|How pretty|I can not believe it]!" said [{friend}|the {friend.kind}].'
        "|They looked at each other and smiled.]",
        "[They took it home and showed it to {hero}'s {parent}."
        "|{hero} and {friend} kept it as their secret.|They took good care of it.]",
    ),
    questions=(
        ("What did {hero} find?", "{hero} found an old {toy.color} box."),
        ("What was in the box?", "Inside was {secret}."),
        ("Where was the box?", "The box was behind the {place.cover} {place.at}."),
    ),
    moral="Two friends can open any box.",
    has_friend=True, has_toy=False,
)

RULE = Plot(
    sentences=(
        'One day, {hero.his} {parent} said, "Do not go to the {far}'
        ' [alone|without me|after dark]."',
        "But {hero} [did not listen|wanted to see it|was too curious].",
        "{hero.he} took {hero.his} {toy.color} {toy} and went to the {far}.",
        "At first, it was [fun|quiet|exciting]. {hero} played with the {toy}.",
        "Then {hero.he} [fell into a hole|lost the way|got stuck behind the {far.cover}].",
        '"Help! Help!" {hero.he} [cried|shouted], and waved the {toy.color} {toy}.',
        "[No one came for a long time.|The sun went down, and it was [cold|dark].]",
        "{friend}, a {friend.trait} {friend.kind}, [heard {hero.him}|saw the {toy}].",
        "{friend} [ran to get|called] {hero}'s {parent},"
        " and together they [pulled {hero.him} out|took {hero.him} home].",
        '"I am sorry," said {hero}. "[I should have listened|I will listen next time]."',
        "[{hero.his} {parent} [hugged {hero.him}|was glad that {hero.he} was safe]."
        "|Then they all went home and ate {food.some}.]",
    ),
    questions=(
        ("Where did {hero} go?", "{hero} went to the {far}."),
        ("Who helped {hero}?", "{friend} the {friend.kind} helped {hero.him}."),
        ("What did {hero} take along?", "{hero} took a {toy.color} {toy}."),
    ),
    moral="It is wise to listen.",
    has_friend=True, has_toy=True,
)

TRADE = Plot(
    sentences=(
        "{hero} had {food.some}, but {hero.he} wanted a {toy.color} {toy}.",
        "{hero.he} went to the [market|village] and met {friend} the {friend.kind}.",
        "{friend} had the {toy.color} {toy}, but {friend.he} wanted {other_food.some}.",
        "So {hero} [walked|ran] to the {far} and met {guest} the {guest.kind},"
        " who had {other_food.some}.",
        '"[Will you trade|Can I have your {other_food}]?" asked {hero}.'
        ' "I will give you {food.some}."',
        '"[Yes, I am hungry|Yes, I would love {food.some}|That is fair]," said {guest}.',
        "{hero} took the {other_food} back to {friend} to get the {toy}.",
        '"[Here you are|Look what I have]," said {hero}.',
        "{friend} was [pleased|very happy] and gave {hero.him} the {toy.color} {toy}.",
        "Now everyone had what they wanted, and {hero} played with the {toy}.",
    ),
    questions=(
        ("What did {hero} want?", "{hero} wanted a {toy.color} {toy}."),
        ("What did {friend} want?", "{friend} wanted {other_food.some}."),
        ("What did {guest} get?", "{guest} got {food.some}."),
    ),
    moral="A fair trade makes everyone happy.",
    has_friend=True, has_toy=True,
)

PLOTS = (LOST, BROKEN, SHARE, STUCK, FEAR, SKILL, STORM, GIFT, SEED, QUARREL, BOX, RULE, TRADE)
